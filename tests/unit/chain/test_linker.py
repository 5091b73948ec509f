"""Objects become programs that the loader takes, or an error that names what is wrong with them.

Seen to fail for: a call whose distance is one off, an address without the region's start, a weak symbol that beats a
strong one, a syscall's name that is not checked, a section beyond the end.
"""

import struct
from typing import Any

import pytest
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction
from solders.transaction_metadata import FailedTransactionMetadata

from chain.elf import SECTION, BadObject, read_object
from chain.linker import LinkError, link_objects
from tests.unit.chain.objects import CALL, EXIT, LOAD_ADDRESS, RODATA, TEXT, Made, instruction, object_file

CALLS, ADDRESS, WORD = 10, 1, 2
RETURN_ZERO = instruction(0xB7)
LOG = LOAD_ADDRESS + instruction(0xB7, 2, 0, 5) + CALL + RETURN_ZERO + EXIT  # sol_log_(address, 5)
LOGS: dict[str, Any] = {
    "text": LOG,
    "symbols": (Made("entrypoint"), Made("sol_log_", section=0), Made("hello", RODATA, binding=0)),
    "relocations": ((0, ADDRESS, 3), (24, CALLS, 2)),
    "data": b"hello",
}


def linked(*objects: bytes) -> bytes:
    return link_objects([read_object(f"{number}.o", each) for number, each in enumerate(objects)])


def run(program: bytes) -> list[str]:
    vm, payer, address = LiteSVM(), Keypair.from_seed(bytes(32)), Pubkey(bytes([7] * 32))
    vm.airdrop(payer.pubkey(), 10**10)
    vm.add_program(address, program)
    blockhash = vm.latest_blockhash()
    message = Message.new_with_blockhash([Instruction(address, b"", [])], payer.pubkey(), blockhash)
    sent = vm.send_transaction(Transaction([payer], message, blockhash))
    assert not isinstance(sent, FailedTransactionMetadata), sent
    return sent.logs()


def test_a_program_logs_what_its_data_says() -> None:
    assert "Program log: hello" in run(linked(object_file(**LOGS)))


def test_a_program_without_imports_runs() -> None:
    assert any(line.endswith("success") for line in run(linked(object_file(text=RETURN_ZERO + EXIT))))


def test_a_call_finds_a_function_of_another_object() -> None:
    caller = object_file(
        text=CALL + EXIT,
        symbols=(Made("entrypoint"), Made("speak", section=0)),
        relocations=((0, CALLS, 2),),
    )
    callee = object_file(**{**LOGS, "symbols": (Made("speak"), *LOGS["symbols"][1:])})

    assert "Program log: hello" in run(linked(caller, callee))


def test_a_pointer_in_data_is_the_loaders_address() -> None:
    text = LOAD_ADDRESS + instruction(0x79, 0x11) + LOG[16:]  # r1 = *(r1): through the pointer
    program = object_file(
        text=text,
        symbols=(*LOGS["symbols"], Made("pointer", RODATA, 8, 0)),
        relocations=((0, ADDRESS, 4), (32, CALLS, 2)),
        data=b"hello".ljust(16, b"\0"),
        data_relocations=((8, WORD, 3),),
    )

    assert "Program log: hello" in run(linked(program))


def test_a_strong_definition_beats_a_weak_one_wherever_it_stands() -> None:
    weak = object_file(text=EXIT * 2, symbols=(Made("entrypoint", binding=2),))
    strong = object_file(text=RETURN_ZERO + EXIT)

    for program in (linked(weak, strong), linked(strong, weak)):
        assert any(line.endswith("success") for line in run(program))
    assert linked(weak, strong)[24:32] != linked(strong, weak)[24:32]  # the entry lies after the weak one, or first


def test_the_same_objects_give_the_same_bytes() -> None:
    assert linked(object_file(**LOGS)) == linked(object_file(**LOGS))


def test_a_call_through_a_register_names_it_as_a_constant() -> None:
    program = linked(object_file(text=instruction(0x8D, 3) + EXIT))

    assert struct.unpack_from("<BBhi", program, 64 + 3 * 56) == (0x8D, 0, 0, 3)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"symbols": (Made("main"),)}, "no global symbol entrypoint"),
        ({**LOGS, "symbols": (Made("entrypoint"), Made("sol_lag_", section=0), LOGS["symbols"][2])}, "sol_lag_"),
        (
            {
                "text": LOAD_ADDRESS + EXIT,
                "symbols": (Made("entrypoint"), Made("table", 0)),
                "relocations": ((0, 1, 2),),
            },
            "table",
        ),
        ({"data": b"state", "data_name": ".data", "data_flags": 3}, r"section \.data \(5 bytes\) is writable"),
        ({"symbols": (Made("entrypoint"), Made("counter", 0xFFF2))}, "counter is a common symbol"),
        ({"text": EXIT, "relocations": ((0, CALLS, 1),)}, "call of entrypoint is relocated where there is no call"),
        ({"text": CALL + EXIT, "relocations": ((0, 77, 1),)}, "relocation 77 of entrypoint"),
        (
            {"text": CALL + EXIT, "symbols": (Made("entrypoint"), Made("note", 3)), "relocations": ((0, CALLS, 2),)},
            "note is used",
        ),
        ({"text": instruction(0x16) + EXIT}, "instruction 0: a 32 bit jump"),
        ({"text": LOAD_ADDRESS + instruction(0xDB) + EXIT}, "instruction 2: an atomic"),
        ({"text": instruction(0x3F, 0, 1) + EXIT}, "signed division"),
        ({"text": instruction(0x91) + EXIT}, "extends the sign"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_would_fail_later_is_refused_by_name(made: dict[str, Any], words: str) -> None:
    with pytest.raises(LinkError, match=words):
        linked(object_file(**made))


def test_two_definitions_are_refused() -> None:
    with pytest.raises(LinkError, match=r"1\.o: entrypoint is defined twice"):
        linked(object_file(), object_file())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "is not 64 bit little endian ELF"),
        (b"\x7fELF\x01\x01\x01" + bytes(60), "is not 64 bit little endian ELF"),
        (object_file(kind=2), "of type 2"),
        (object_file(machine=62), "machine 62"),
        (object_file(relocations_kind=4, relocations=((0, 10, 1),)), "relocations with addends"),
        (object_file(relocations=((0, 10, 9),)), "damaged"),
    ],
    ids=["empty", "32 bit", "executable", "x86", "rela", "no such symbol"],
)
def test_what_is_no_bpf_object_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(BadObject, match=words):
        read_object("bad.o", raw)


def test_a_section_beyond_the_end_is_refused() -> None:
    raw = bytearray(object_file())
    (headers,) = struct.unpack_from("<Q", raw, 40)
    struct.pack_into("<Q", raw, headers + SECTION.size * TEXT + 32, len(raw))  # its size

    with pytest.raises(BadObject, match="outside"):
        read_object("bad.o", bytes(raw))


def test_no_object_that_is_cut_short_is_read() -> None:
    whole = object_file(**LOGS)

    for length in range(0, len(whole) - 1, 7):
        with pytest.raises(BadObject, match=r"bad\.o"):
            read_object("bad.o", whole[:length])
