"""ELF as far as linking needs it: what a relocatable BPF object holds, and the bytes of a shared object.

Source: System V ABI, chapter 4 (object files) and 5 (dynamic linking); figures are those of 64 bit little endian ELF.
"""

import struct
from dataclasses import dataclass
from typing import Any, Final

HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION: Final = struct.Struct("<IIQQQQIIQQ")
PROGRAM: Final = struct.Struct("<IIQQQQQQ")
SYMBOL: Final = struct.Struct("<IBBHQQ")
RELOCATION: Final = struct.Struct("<QQ")
DYNAMIC: Final = struct.Struct("<QQ")

MAGIC: Final = b"\x7fELF\x02\x01\x01"  # 64 bit, little endian, version 1
RELOCATABLE, SHARED = 1, 3
BPF_MACHINES: Final = (247, 263)
SBF: Final = 263
PROGBITS, SYMTAB, STRTAB, RELA, DYNAMIC_TABLE, NOBITS, REL, DYNSYM = 1, 2, 3, 4, 6, 8, 9, 11
WRITE, ALLOC, EXECUTE = 1, 2, 4
UNDEFINED, COMMON = 0, 0xFFF2
GLOBAL, WEAK = 1, 2
SECTIONS_MAX: Final = 10_000


class BadObject(Exception):
    """The file is no BPF object of 64 bit little endian ELF, or is cut short; says which file and why."""


@dataclass(frozen=True)
class Section:
    number: int
    name: str
    kind: int
    flags: int
    link: int
    info: int
    align: int
    size: int
    data: bytes  # empty for what takes no room in the file

    @property
    def allocated(self) -> bool:
        return bool(self.flags & ALLOC)

    @property
    def writable(self) -> bool:
        return bool(self.flags & WRITE)

    @property
    def executable(self) -> bool:
        return bool(self.flags & EXECUTE)


@dataclass(frozen=True)
class Symbol:
    """value: offset in its section."""

    name: str
    section: int
    value: int
    binding: int

    @property
    def is_global(self) -> bool:
        return self.binding in (GLOBAL, WEAK) and self.section != UNDEFINED

    @property
    def weak(self) -> bool:
        return self.binding == WEAK

    @property
    def undefined(self) -> bool:
        return self.section == UNDEFINED

    @property
    def common(self) -> bool:
        return self.section == COMMON


@dataclass(frozen=True)
class ObjectFile:
    """relocations: section that is changed, offset in it, kind, symbol."""

    name: str
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]
    relocations: tuple[tuple[Section, int, int, Symbol], ...]


def read_object(name: str, raw: bytes) -> ObjectFile:
    """Raises BadObject."""
    try:
        return _read(name, raw)
    except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
        raise BadObject(f"{name}: is cut short or damaged ({error})") from None


def _read(name: str, raw: bytes) -> ObjectFile:
    if not raw.startswith(MAGIC):
        raise BadObject(f"{name}: is not 64 bit little endian ELF")
    _, kind, machine, _, _, _, start, _, _, _, _, _, count, names_at = HEADER.unpack_from(raw)
    if kind != RELOCATABLE or machine not in BPF_MACHINES:
        raise BadObject(f"{name}: is no relocatable BPF object, but of type {kind} for machine {machine}")
    if count > SECTIONS_MAX:
        raise BadObject(f"{name}: has {count} sections")
    headers = [SECTION.unpack_from(raw, start + number * SECTION.size) for number in range(count)]
    titles = _bytes_of(name, raw, headers[names_at])
    sections = tuple(
        Section(number, _text(titles, head[0]), head[1], head[2], head[6], head[7], head[8], head[5],
                _bytes_of(name, raw, head))
        for number, head in enumerate(headers)
    )  # fmt: skip
    symbols = _symbols(sections)
    return ObjectFile(name, sections, symbols, _relocations(name, sections, symbols))


def _bytes_of(name: str, raw: bytes, head: tuple[Any, ...]) -> bytes:
    kind, offset, size = head[1], head[4], head[5]
    if kind in (0, NOBITS):
        return b""
    if offset + size > len(raw):
        raise BadObject(f"{name}: a section lies outside of the file")
    return raw[offset : offset + size]


def _symbols(sections: tuple[Section, ...]) -> tuple[Symbol, ...]:
    tables = [section for section in sections if section.kind == SYMTAB]
    return tuple(
        Symbol(_text(sections[table.link].data, title), section, value, info >> 4)
        for table in tables[:1]
        for title, info, _, section, value, _ in SYMBOL.iter_unpack(table.data)
    )


def _relocations(
    name: str, sections: tuple[Section, ...], symbols: tuple[Symbol, ...]
) -> tuple[tuple[Section, int, int, Symbol], ...]:
    found = []
    for section in sections:
        if section.kind == RELA and sections[section.info].allocated:
            raise BadObject(f"{name}: section {section.name} has relocations with addends, which BPF does not use")
        if section.kind == REL:
            target = sections[section.info]
            for offset, info in RELOCATION.iter_unpack(section.data):
                found.append((target, offset, info & 0xFFFF_FFFF, symbols[info >> 32]))
    return tuple(found)


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(0, at)].decode()


class _File:
    """A file that grows, and the headers of its sections."""

    def __init__(self, start: int) -> None:
        self.raw = bytearray(start)
        self.headers = [bytes(SECTION.size)]
        self._titles = bytearray(b"\0")

    def add(
        self,
        title: str,
        kind: int,
        flags: int,
        data: bytes,
        *,
        link: int = 0,
        info: int = 0,
        align: int = 8,
        item: int = 0,
    ) -> int:
        """Where the section begins. What is loaded lies at the address of its offset."""
        self.raw.extend(bytes(-len(self.raw) % align))
        offset = len(self.raw)
        self.raw.extend(data)
        address = offset if flags & ALLOC else 0
        named = len(self._titles)
        self._titles += title.encode() + b"\0"
        self.headers.append(SECTION.pack(named, kind, flags, address, offset, len(data), link, info, align, item))
        return offset

    def finish(self, entry: int, segments: list[bytes]) -> bytes:
        titles = len(self.headers)
        named = len(self._titles)
        self._titles += b".shstrtab\0"
        self.headers.append(SECTION.pack(named, STRTAB, 0, 0, len(self.raw), len(self._titles), 0, 0, 1, 0))
        self.raw += self._titles
        self.raw.extend(bytes(-len(self.raw) % 8))
        start = len(self.raw)
        self.raw += b"".join(self.headers)
        count, size = len(self.headers), HEADER.size
        head = HEADER.pack(MAGIC, SHARED, SBF, 1, entry, size, start, 0, size, PROGRAM.size, len(segments),
                           SECTION.size, count, titles)  # fmt: skip
        self.raw[:size] = head
        self.raw[size : size + PROGRAM.size * len(segments)] = b"".join(segments)
        return bytes(self.raw)


def shared_object(
    text: bytes, rodata: bytes, rodata_start: int, entry: tuple[str, int], imports: list[tuple[int, str]]
) -> bytes:
    """Code, data, and the tables by which the loader binds calls: offsets of `imports` and of the entry are the file's.

    .text | .rodata | .dynamic | .dynsym | .dynstr | .rel.dyn; the last four are there even when nothing is imported.
    """
    start = HEADER.size + 3 * PROGRAM.size
    names = list(dict.fromkeys(name for _, name in imports))
    strings, at = bytearray(b"\0"), {}
    for name in [entry[0], *names]:
        at[name] = len(strings)
        strings += name.encode() + b"\0"
    symbols = bytes(SYMBOL.size)
    symbols += b"".join(SYMBOL.pack(at[name], GLOBAL << 4, 0, UNDEFINED, 0, 0) for name in names)
    symbols += SYMBOL.pack(at[entry[0]], GLOBAL << 4 | 2, 0, 1, entry[1], 0)
    calls = b"".join(RELOCATION.pack(offset, (1 + names.index(name)) << 32 | 10) for offset, name in imports)

    file = _File(start)
    file.add(".text", PROGBITS, ALLOC | EXECUTE, text)
    if rodata:
        placed = file.add(".rodata", PROGBITS, ALLOC, rodata, align=16)
        assert placed == rodata_start
    else:
        rodata_start = len(file.raw)
    dynamic_size = DYNAMIC.size * (7 if calls else 4)
    dynamic_start = len(file.raw) + -len(file.raw) % 8
    symbols_start = dynamic_start + dynamic_size
    strings_start = symbols_start + len(symbols)
    calls_start = strings_start + len(strings)
    calls_start += -calls_start % 8
    entries = [(0x1E, 4)]  # FLAGS: TEXTREL
    entries += [(17, calls_start), (18, len(calls)), (19, RELOCATION.size)] if calls else []  # REL, RELSZ, RELENT
    entries += [(6, symbols_start), (5, strings_start), (0, 0)]  # SYMTAB, STRTAB, end
    number = len(file.headers)
    dynamic = b"".join(DYNAMIC.pack(*each) for each in entries)
    file.add(".dynamic", DYNAMIC_TABLE, ALLOC | WRITE, dynamic, link=number + 2, item=DYNAMIC.size)
    file.add(".dynsym", DYNSYM, ALLOC, symbols, link=number + 2, info=1, item=SYMBOL.size)
    file.add(".dynstr", STRTAB, ALLOC, bytes(strings), align=1)
    if calls:
        placed = file.add(".rel.dyn", REL, ALLOC, calls, link=number + 1, item=RELOCATION.size)
        assert placed == calls_start
    loaded = len(file.raw) - rodata_start
    segments = [
        PROGRAM.pack(1, 5, start, start, start, len(text), len(text), 0x1000),
        PROGRAM.pack(1, 4, rodata_start, rodata_start, rodata_start, loaded, loaded, 0x1000),
        PROGRAM.pack(2, 6, dynamic_start, dynamic_start, dynamic_start, dynamic_size, dynamic_size, 8),
    ]
    return file.finish(entry[1], segments)
