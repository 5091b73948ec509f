"""What holds for every instruction: it works, says so, costs what it did, and checks what the IDL promises.

Seen to fail for: a signer's rule left out of the generated table, seeds that are not compared, an address that is not
compared, an event that is not emitted, an instruction that takes longer data, 6 % more compute units.
"""

import functools
import itertools
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from chain.programs.interface import NAMES, load_idl
from tests.support.chain import SYSTEM_PROGRAM, TOKEN_PROGRAM, within_limit
from tests.unit.chain.programs.calls import CALLS, Call

IDLS = {name: load_idl(name) for name in NAMES}
INSTRUCTIONS = {f"{name}.{each['name']}": each for name, idl in IDLS.items() for each in idl["instructions"]}


def accounts_with(*properties: str) -> list[tuple[str, int]]:
    return [
        (name, place)
        for name, idl in INSTRUCTIONS.items()
        for place, account in enumerate(idl["accounts"])
        if any(each in account for each in properties)
    ]


@functools.cache
def shared(name: str) -> Call:
    """For calls that fail, which leave the chain as it was."""
    return CALLS[name]()


def spoilt(instruction: Instruction, place: int, meta: AccountMeta) -> Instruction:
    metas = [meta if index == place else each for index, each in enumerate(instruction.accounts)]
    return Instruction(instruction.program_id, bytes(instruction.data), metas)


def test_every_instruction_has_a_call() -> None:
    assert set(CALLS) == set(INSTRUCTIONS)


@pytest.mark.parametrize("name", CALLS)
def test_it_succeeds_emits_its_events_and_costs_no_more_than_before(name: str) -> None:
    call = CALLS[name]()

    outcome = call.send()

    assert (outcome.error, tuple(event.name for event in outcome.events)) == ("", call.events)
    assert within_limit(name, outcome.units), outcome.units


def test_every_event_belongs_to_a_call() -> None:
    emitted = set(itertools.chain.from_iterable(shared(name).events for name in CALLS))

    assert emitted == {event["name"] for idl in IDLS.values() for event in idl["events"]}


@pytest.mark.parametrize(("name", "place"), accounts_with("signer"))
def test_who_must_sign_must(name: str, place: int) -> None:
    call = shared(name)
    instruction = call.instruction()
    meta = instruction.accounts[place]

    payer = "mallory" if call.signer == "bob" else "bob"

    outcome = call.chain.send(spoilt(instruction, place, AccountMeta(meta.pubkey, False, meta.is_writable)), payer)

    assert outcome.error == "AccountNotSigner"


@pytest.mark.parametrize(("name", "place"), accounts_with("writable"))
def test_what_is_written_must_be_writable(name: str, place: int) -> None:
    call = shared(name)
    instruction = call.instruction()
    meta = instruction.accounts[place]
    payer = "mallory" if call.signer != "mallory" else "bob"  # who pays is writable, so it is somebody else

    readonly = AccountMeta(meta.pubkey, meta.is_signer, False)
    outcome = call.chain.send(spoilt(instruction, place, readonly), payer, call.signer)

    assert outcome.error == "ConstraintMut"


@pytest.mark.parametrize(("name", "place"), accounts_with("pda"))
def test_an_account_elsewhere_is_refused(name: str, place: int) -> None:
    call = shared(name)
    instruction = call.instruction()
    meta = instruction.accounts[place]
    elsewhere, _ = Pubkey.find_program_address([b"elsewhere"], instruction.program_id)

    outcome = call.chain.send(spoilt(instruction, place, AccountMeta(elsewhere, False, meta.is_writable)), call.signer)

    assert outcome.error == "ConstraintSeeds"


@pytest.mark.parametrize(("name", "place"), accounts_with("address"))
def test_another_program_or_governance_is_refused(name: str, place: int) -> None:
    call = shared(name)
    instruction = call.instruction()
    other = TOKEN_PROGRAM if instruction.accounts[place].pubkey == SYSTEM_PROGRAM else SYSTEM_PROGRAM

    outcome = call.chain.send(spoilt(instruction, place, AccountMeta(other, False, False)), call.signer)

    assert outcome.error == "ConstraintAddress"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0"], ids=["shorter", "longer"])
def test_arguments_fill_the_instruction_exactly(name: str, change: Any) -> None:
    call = shared(name)
    instruction = call.instruction()
    data = change(bytes(instruction.data))

    outcome = call.chain.send(Instruction(instruction.program_id, data, instruction.accounts), call.signer)

    expected = "InstructionFallbackNotFound" if len(data) < 8 else "InstructionDidNotDeserialize"
    assert outcome.error == expected


@pytest.mark.parametrize("name", CALLS)
def test_too_few_accounts_are_refused(name: str) -> None:
    call = shared(name)
    instruction = call.instruction()
    fewer = Instruction(instruction.program_id, bytes(instruction.data), instruction.accounts[:1])

    assert call.chain.send(fewer, call.signer).error == "AccountNotEnoughKeys"


@pytest.mark.parametrize("program", NAMES)
def test_an_unknown_instruction_is_refused(program: str) -> None:
    call = shared(f"{program}.initialize")
    address = call.chain.program(program).id

    assert call.chain.send(Instruction(address, bytes(8), []), "bob").error == "InstructionFallbackNotFound"


CREATING = [
    name for name, idl in INSTRUCTIONS.items() if any(each["name"] == "system_program" for each in idl["accounts"])
]


@pytest.mark.parametrize("name", CREATING)
@pytest.mark.parametrize("lamports", [1, 10**9], ids=["little", "much"])
def test_lamports_sent_ahead_do_not_keep_an_account_from_being_made(name: str, lamports: int) -> None:
    call = CALLS[name]()
    address = call.instruction().accounts[0].pubkey
    call.chain.vm.airdrop(address, lamports + 890_880)  # the least that an empty account may hold

    assert call.send().error == ""
