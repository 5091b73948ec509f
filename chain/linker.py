"""Links BPF object files of an ordinary clang into the shared object that Solana's loader takes (SBF version 0).

    object files -> read (elf.py) -> lay out .text and .rodata -> resolve symbols -> apply relocations -> write

Rules of the format: every section lies at its file offset; there is nothing writable; calls inside the program stay
relative to their instruction; calls of the runtime go through the dynamic symbol table and are bound by name; an
address of data is written as the loader will place it. What the loader or the verifier would refuse later, or accept
and fail at the first call, is refused here, with the name of the symbol or section. Source: docs/decisions/0024.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chain.elf import BadObject, ObjectFile, Section, Symbol, read_object, shared_object

DATA_REGION: Final = 0x1_0000_0000  # where the loader maps the file; offsets are relative to it
CODE_START: Final = 64 + 3 * 56  # behind the ELF header and three program headers
INSTRUCTION: Final = 8  # bytes
RODATA_ALIGN: Final = 16

R_BPF_64_64: Final = 1  # a 64 bit address in the two halves of a wide load
R_BPF_64_ABS64: Final = 2  # a 64 bit address in data
R_BPF_64_32: Final = 10  # a call

CALL: Final = 0x85
CALL_REGISTER: Final = 0x8D
WIDE_LOAD: Final = 0x18
ATOMICS: Final = (0xC3, 0xDB)
CLASS_LOAD, CLASS_ALU32, CLASS_JUMP32, CLASS_ALU64 = 0x01, 0x04, 0x06, 0x07
MODE: Final = 0xE0
MODE_SIGNED: Final = 0x80

# What a program may import (Agave 2.2). The loader takes any name; an unknown one fails when it is called.
SYSCALLS: Final = frozenset(
    """
    abort sol_panic_ sol_log_ sol_log_64_ sol_log_compute_units_ sol_log_pubkey sol_log_data
    sol_create_program_address sol_try_find_program_address sol_sha256 sol_keccak256 sol_blake3 sol_secp256k1_recover
    sol_poseidon sol_curve_validate_point sol_curve_group_op sol_curve_multiscalar_mul sol_alt_bn128_group_op
    sol_alt_bn128_compression sol_big_mod_exp sol_get_clock_sysvar sol_get_epoch_schedule_sysvar sol_get_rent_sysvar
    sol_get_last_restart_slot sol_get_epoch_rewards_sysvar sol_get_sysvar sol_get_epoch_stake sol_memcpy_ sol_memmove_
    sol_memset_ sol_memcmp_ sol_invoke_signed_c sol_invoke_signed_rust sol_alloc_free_ sol_set_return_data
    sol_get_return_data sol_get_processed_sibling_instruction sol_get_stack_height sol_remaining_compute_units
    """.split()  # noqa: SIM905 - a list would be three times as long
)


class LinkError(Exception):
    """The objects do not make a program; names the symbol, section or instruction."""


@dataclass
class _Image:
    """The program as it grows. `places` says where each section that is kept begins, as an offset in the file."""

    text: bytearray = field(default_factory=bytearray)
    rodata: bytearray = field(default_factory=bytearray)
    places: dict[tuple[str, int], int] = field(default_factory=dict)  # by object name and section number
    imports: list[tuple[int, str]] = field(default_factory=list)  # offset of a call in the file, syscall

    @property
    def rodata_start(self) -> int:
        end = CODE_START + len(self.text)
        return end + -end % RODATA_ALIGN

    def buffer(self, offset: int) -> tuple[bytearray, int]:
        """What holds this offset of the file, and where in it."""
        start = self.rodata_start
        return (self.rodata, offset - start) if offset >= start else (self.text, offset - CODE_START)


def link(objects: list[Path], entry: str = "entrypoint") -> bytes:
    """The shared object. Raises LinkError, and BadObject for a file that is no BPF object."""
    return link_objects([read_object(path.name, path.read_bytes()) for path in objects], entry)


def link_objects(objects: list[ObjectFile], entry: str = "entrypoint") -> bytes:
    """The same of objects that are read already; their names must differ."""
    image = _laid_out(objects)
    symbols = _globals(objects, image)
    undefined: set[str] = set()
    for each in objects:
        for section, offset, kind, symbol in _relocations(each, image):
            place = image.places[each.name, section.number] + offset
            _relocate(each, image, place, kind, symbol, _address(each, image, symbols, symbol), undefined)
    if undefined:
        raise LinkError(f"undefined, and no syscall of Solana: {', '.join(sorted(undefined))}")
    if entry not in symbols:
        raise LinkError(f"no global symbol {entry}")
    _checked(image.text)
    return shared_object(
        text=bytes(image.text),
        rodata=bytes(image.rodata),
        rodata_start=image.rodata_start,
        entry=(entry, symbols[entry]),
        imports=sorted(image.imports),
    )


def _laid_out(objects: list[ObjectFile]) -> _Image:
    """All code first: where data begins depends on how much code there is."""
    image = _Image()
    kept = [(each, section) for each in objects for section in each.sections if _is_kept(each, section)]
    for each, section in kept:
        if section.executable:
            image.places[each.name, section.number] = CODE_START + _append(image.text, section.data, INSTRUCTION)
    start = image.rodata_start
    for each, section in kept:
        if not section.executable:
            align = max(INSTRUCTION, section.align)
            image.places[each.name, section.number] = start + _append(image.rodata, section.data, align)
    return image


def _is_kept(source: ObjectFile, section: Section) -> bool:
    if not section.allocated or not section.size or section.name == ".eh_frame":
        return False
    if section.writable and not section.name.startswith(".data.rel.ro"):
        raise LinkError(
            f"{source.name}: section {section.name} ({section.size} bytes) is writable, and programs have no globals"
        )
    return True


def _append(buffer: bytearray, data: bytes, align: int) -> int:
    buffer.extend(bytes(-len(buffer) % align))
    offset = len(buffer)
    buffer.extend(data)
    return offset


def _globals(objects: list[ObjectFile], image: _Image) -> dict[str, int]:
    """File offsets of what is defined for all: a strong definition beats weak ones, two strong ones are an error."""
    found: dict[str, tuple[int, bool]] = {}
    for each in objects:
        for symbol in each.symbols:
            if symbol.common:
                raise LinkError(f"{each.name}: {symbol.name} is a common symbol, and programs have no globals")
            if not symbol.is_global or (each.name, symbol.section) not in image.places:
                continue
            known = found.get(symbol.name)
            if known and not known[1] and not symbol.weak:
                raise LinkError(f"{each.name}: {symbol.name} is defined twice")
            if known is None or (known[1] and not symbol.weak):
                found[symbol.name] = (image.places[each.name, symbol.section] + symbol.value, symbol.weak)
    return {name: offset for name, (offset, _) in found.items()}


def _relocations(source: ObjectFile, image: _Image) -> Iterator[tuple[Section, int, int, Symbol]]:
    for section, offset, kind, symbol in source.relocations:
        if (source.name, section.number) in image.places:
            yield section, offset, kind, symbol


def _address(source: ObjectFile, image: _Image, symbols: dict[str, int], symbol: Symbol) -> int | None:
    """File offset of the symbol, None when no object defines it."""
    if symbol.undefined or (symbol.weak and symbol.name in symbols):
        return symbols.get(symbol.name)
    try:
        return image.places[source.name, symbol.section] + symbol.value
    except KeyError:
        raise LinkError(f"{source.name}: {symbol.name or 'a section'} is used, but its section is left out") from None


def _relocate(
    source: ObjectFile, image: _Image, place: int, kind: int, symbol: Symbol, address: int | None, undefined: set[str]
) -> None:
    buffer, at = image.buffer(place)
    if kind == R_BPF_64_32:
        _relocate_call(source, image, place, symbol, address, undefined)
    elif kind not in (R_BPF_64_64, R_BPF_64_ABS64):
        raise LinkError(f"{source.name}: relocation {kind} of {symbol.name or 'a section'} is none that is known")
    elif address is None:
        undefined.add(symbol.name)
    elif kind == R_BPF_64_ABS64:
        (addend,) = struct.unpack_from("<Q", buffer, at)
        struct.pack_into("<Q", buffer, at, DATA_REGION + address + addend)
    else:
        low, high = struct.unpack_from("<I8xI", buffer, at + 4)[0], struct.unpack_from("<I", buffer, at + 12)[0]
        value = DATA_REGION + address + (low | high << 32)
        struct.pack_into("<I", buffer, at + 4, value & 0xFFFF_FFFF)
        struct.pack_into("<I", buffer, at + 12, value >> 32)


def _relocate_call(
    source: ObjectFile, image: _Image, place: int, symbol: Symbol, address: int | None, undefined: set[str]
) -> None:
    buffer, at = image.buffer(place)
    if buffer is not image.text or buffer[at] != CALL:
        raise LinkError(f"{source.name}: a call of {symbol.name} is relocated where there is no call")
    if address is not None:
        (addend,) = struct.unpack_from("<i", buffer, at + 4)
        target = address + (addend + 1) * INSTRUCTION
        struct.pack_into("<i", buffer, at + 4, (target - place) // INSTRUCTION - 1)
    elif symbol.name in SYSCALLS:
        buffer[at + 1] &= 0x0F  # source register 1 means a call inside the program
        struct.pack_into("<i", buffer, at + 4, -1)
        image.imports.append((place, symbol.name))
    else:
        undefined.add(symbol.name)


def _checked(text: bytearray) -> None:
    """Refuse what version 0 does not know, and write register calls as it wants them: the register as a constant."""
    index, count = 0, len(text) // INSTRUCTION
    while index < count:
        at = index * INSTRUCTION
        code, registers, offset = struct.unpack_from("<BBh", text, at)
        family = code & 0x07
        if code == WIDE_LOAD:
            index += 2
            continue
        if family == CLASS_JUMP32:
            raise LinkError(f"instruction {index}: a 32 bit jump ({code:#x}); compile with -mcpu=v2")
        if code in ATOMICS:
            raise LinkError(f"instruction {index}: an atomic operation ({code:#x})")
        if family in (CLASS_ALU32, CLASS_ALU64) and offset:
            raise LinkError(f"instruction {index}: a signed division or extending move ({code:#x})")
        if family == CLASS_LOAD and code & MODE == MODE_SIGNED:
            raise LinkError(f"instruction {index}: a load that extends the sign ({code:#x})")
        if code == CALL_REGISTER:
            struct.pack_into("<Bxxi", text, at + 1, 0, registers & 0x0F)
        index += 1


__all__ = ["BadObject", "LinkError", "link", "link_objects"]
