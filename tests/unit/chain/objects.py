"""BPF object files made by hand, so that the linker's tests need no compiler and can be as wrong as they want."""

import struct
from typing import Final

from msgspec import Struct

from chain.elf import HEADER, MAGIC, RELOCATION, SECTION, SYMBOL

TEXT, RODATA = 1, 2
EXIT: Final = bytes.fromhex("9500000000000000")
CALL: Final = bytes.fromhex("85100000ffffffff")  # of the function that a relocation names
LOAD_ADDRESS: Final = bytes.fromhex("18010000000000000000000000000000")


class Made(Struct, frozen=True):
    """A symbol: section 0 is undefined; a relocation: offset in the section, kind, symbol's number from 1."""

    name: str
    section: int = TEXT
    value: int = 0
    binding: int = 1


def object_file(
    text: bytes = EXIT,
    symbols: tuple[Made, ...] = (Made("entrypoint"),),
    relocations: tuple[tuple[int, int, int], ...] = (),
    data: bytes = b"",
    data_name: str = ".rodata",
    data_flags: int = 2,
    machine: int = 247,
    kind: int = 1,
    relocations_kind: int = 9,
    data_relocations: tuple[tuple[int, int, int], ...] = (),
) -> bytes:
    """Sections: 1 .text, 2 data, 3 symbols, 4 strings, 5 and 6 relocations of text and data, 7 names."""
    strings = b"\0" + b"".join(each.name.encode() + b"\0" for each in symbols)
    table = bytes(SYMBOL.size)
    at = 1
    for each in symbols:
        table += SYMBOL.pack(at, each.binding << 4, 0, each.section, each.value, 0)
        at += len(each.name) + 1
    names = b"\0.text\0" + data_name.encode() + b"\0.symtab\0.strtab\0.rel\0.shstrtab\0"
    bodies = [
        (".text", 1, 6, text, 0, 0, 8),
        (data_name, 1, data_flags, data, 0, 0, 8),
        (".symtab", 2, 0, table, 4, 1, 8),
        (".strtab", 3, 0, strings, 0, 0, 1),
        (".rel", relocations_kind, 0, _packed(relocations), 3, TEXT, 8),
        (".rel", relocations_kind, 0, _packed(data_relocations), 3, RODATA, 8),
        (".shstrtab", 3, 0, names, 0, 0, 1),
    ]
    raw, headers = bytearray(HEADER.size), [bytes(SECTION.size)]
    for name, section_kind, flags, body, link, info, align in bodies:
        raw.extend(bytes(-len(raw) % 8))
        place = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(SECTION.pack(place, section_kind, flags, 0, len(raw), len(body), link, info, align, 0))
        raw += body
    raw.extend(bytes(-len(raw) % 8))
    start = len(raw)
    head = HEADER.pack(MAGIC, kind, machine, 1, 0, 0, start, 0, HEADER.size, 0, 0, SECTION.size, len(headers), 7)
    raw[: HEADER.size] = head
    return bytes(raw + b"".join(headers))


def _packed(relocations: tuple[tuple[int, int, int], ...]) -> bytes:
    return b"".join(RELOCATION.pack(offset, symbol << 32 | kind) for offset, kind, symbol in relocations)


def instruction(code: int, registers: int = 0, offset: int = 0, constant: int = 0) -> bytes:
    return struct.pack("<BBhi", code, registers, offset, constant)
