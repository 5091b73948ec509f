"""An IDL as C: types with their discriminators and lengths, errors, and a dispatcher that checks what the IDL promises.

Rule: whatever the IDL can say is checked by what is generated here (signers, writable accounts, fixed addresses, seeds,
lengths), so that a program cannot forget it and the IDL cannot lie. What this page calls a length is borsh's, in bytes.
"""

from typing import Any, Final

from solders.pubkey import Pubkey

from chain.programs.interface import NAMES, Idl, Kind, discriminator, fixed_address, program_id

SCALARS: Final = {"u8": 1, "bool": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8, "pubkey": 32}
DISCRIMINATOR_LENGTH: Final = 8
COUNT_LENGTH: Final = 4  # before the items of a vec


class Unsupported(Exception):
    """The IDL uses a type that this generator does not write; says which."""


def header(name: str, idls: dict[str, Idl]) -> str:
    """The C header of the program, included by its source alone."""
    idl = idls[name]
    parts = [
        f"/* Generated from the IDL of {name}: change that, then `make programs`. */",
        "#pragma once",
        '#include "anchor.h"',
        *(f"static const Pubkey PROGRAM_{each} = {_key(program_id(idls[each]))};" for each in NAMES),
        *_types(idls),
        *(f'FAILURE({error["name"]}, {error["code"]}, "{error["msg"]}")' for error in idl["errors"]),
        *(line for instruction in idl["instructions"] for line in _instruction(idl, instruction)),
        *_entrypoint(idl),
    ]
    return "\n".join(parts) + "\n"


def length(kind: Any, idl: Idl) -> int:
    """Borsh length of a type. Raises Unsupported for those whose length varies."""
    if isinstance(kind, str) and kind in SCALARS:
        return SCALARS[kind]
    if isinstance(kind, dict) and "array" in kind:
        item, count = kind["array"]
        return length(item, idl) * int(count)
    if isinstance(kind, dict) and "defined" in kind:
        return sum(length(field["type"], idl) for field in _fields(idl, kind["defined"]["name"]))
    raise Unsupported(f"{kind}")


def _fields(idl: Idl, name: str) -> list[Any]:
    found: list[Any] = next(each["type"]["fields"] for each in idl["types"] if each["name"] == name)
    return found


def _types(idls: dict[str, Idl]) -> list[str]:
    """Accounts and events of all programs: one program may read another's accounts."""
    lines = [f"typedef struct {{ u8 bytes[{size}]; }} __attribute__((aligned(8))) Bytes{size};" for size in (16, 32)]
    for idl in idls.values():
        kinds: dict[str, Kind] = {item["name"]: "account" for item in idl["accounts"]}
        kinds.update((item["name"], "event") for item in idl["events"])
        for each in idl["types"]:
            name, kind = each["name"], kinds.get(each["name"])
            size = length({"defined": {"name": name}}, idl) + (DISCRIMINATOR_LENGTH if kind else 0)
            members = ["u64 discriminator;"] if kind else []
            members += [_member(field["name"], field["type"]) for field in _fields(idl, name)]
            lines += [f"typedef struct {{ {' '.join(members)} }} PACKED {name};", f"#define LENGTH_{name} {size}"]
            lines.append(f'_Static_assert(sizeof({name}) == ({size} + 7) / 8 * 8, "borsh has no gaps: {name}");')
            if kind:
                lines.append(f"#define DISCRIMINATOR_{name} {_number(discriminator(kind, name))}")
    return lines


def _member(name: str, kind: Any) -> str:
    match kind:
        case "bool":
            return f"u8 {name};"
        case "pubkey":
            return f"Pubkey {name};"
        case str() if kind in SCALARS:
            return f"{kind} {name};"
        case {"array": ["u8", 16 | 32 as size]}:
            return f"Bytes{size} {name};"
        case {"array": [str() as item, int() as count]} if item in SCALARS:
            return f"{item} {name}[{count}];"
        case {"vec": _}:
            return f"u32 {name}_count; u8 {name}[];"
    raise Unsupported(f"{name}: {kind}")


def _instruction(idl: Idl, instruction: Idl) -> list[str]:
    name, accounts = instruction["name"], instruction["accounts"]
    names = [account["name"] for account in accounts]
    members = " ".join(_member(argument["name"], argument["type"]) for argument in instruction["args"])
    fixed = [fixed_address(idl, account) for account in accounts]
    addresses = [
        Pubkey.from_string(account["address"]) if "address" in account else place[0] if place else None
        for account, place in zip(accounts, fixed, strict=True)
    ]
    rules = [
        f"    {{{int(account.get('signer', False))}, {int(account.get('writable', False))}, "
        f"{place[1] if place else 0}, {f'&{name}_addresses[{index}]' if address else '0'}}},"
        for index, (account, place, address) in enumerate(zip(accounts, fixed, addresses, strict=True))
    ]
    lines = [
        f"typedef struct {{ Account {', '.join(names)}; }} {name}_Accounts;",
        f"typedef struct {{ u8 {', '.join(names)}; }} {name}_Bumps;",
        f"typedef struct {{ u64 discriminator; {members} }} PACKED {name}_Args;",
        f"static u64 {name}(const Input *, const {name}_Accounts *, const {name}_Bumps *, const {name}_Args *);",
        f"static const Pubkey {name}_addresses[] = {{",
        *(f"    {_key(address or Pubkey.default())}," for address in addresses),
        "};",
        f"static const Rule {name}_rules[] = {{",
        *rules,
        "};",
        f"OUTLINE u64 run_{name}(Input *input) {{",
        f'    LOG("Instruction: {"".join(word.capitalize() for word in name.split("_"))}");',
        f"    const {name}_Accounts *at = (const {name}_Accounts *)input->accounts;",
        f"    const {name}_Args *args = (const {name}_Args *)input->data;",
        *_length_checks(idl, instruction),
        f"    TRY(check_rules(input, {name}_rules, {len(names)}));",
    ]
    for index, (account, place) in enumerate(zip(accounts, fixed, strict=True)):
        if "pda" in account and place is None:
            seeds = ", ".join(_seed(seed) for seed in account["pda"]["seeds"])
            count = len(account["pda"]["seeds"])
            lines.append(f"    TRY(check_seeds(input, {index}, (Slice[]){{{seeds}}}, {count}));")
    lines += [f"    return {name}(input, at, (const {name}_Bumps *)input->bumps, args);", "}"]
    return lines


def _length_checks(idl: Idl, instruction: Idl) -> list[str]:
    """Arguments fill the instruction exactly; a vec may only come last."""
    size, extra = DISCRIMINATOR_LENGTH, ""
    for argument in instruction["args"]:
        if isinstance(argument["type"], dict) and "vec" in argument["type"]:
            size += COUNT_LENGTH
            extra = f" + {length(argument['type']['vec'], idl)} * (u64)args->{argument['name']}_count"
        else:
            size += length(argument["type"], idl)
    lines = [f"    REQUIRE(input->length >= {size}, InstructionDidNotDeserialize);"]
    lines.append(f"    REQUIRE(input->length == {size}{extra}, InstructionDidNotDeserialize);")
    flags = [argument["name"] for argument in instruction["args"] if argument["type"] == "bool"]
    return lines + [f"    REQUIRE(args->{flag} <= 1, InstructionDidNotDeserialize);" for flag in flags]


def _seed(seed: Idl) -> str:
    match seed["kind"]:
        case "const":
            return f'SEED("{bytes(seed["value"]).decode("ascii")}")'
        case "account":
            return f"SEED_OF(*key_of(at->{seed['path']}))"
        case "arg":
            return f"SEED_OF(args->{seed['path']})"
    raise Unsupported(f"seed {seed}")


def _entrypoint(idl: Idl) -> list[str]:
    cases = [
        f"    case {_number(discriminator('global', each['name']))}: return run_{each['name']}(&input);"
        for each in idl["instructions"]
    ]
    return [
        "u64 entrypoint(u8 *buffer) {",
        "    Input input;",
        "    TRY(read_input(buffer, &input));",
        f"    REQUIRE(input.length >= {DISCRIMINATOR_LENGTH}, InstructionFallbackNotFound);",
        "    switch (load64(input.data)) {",
        *cases,
        "    }",
        "    return fail_InstructionFallbackNotFound();",
        "}",
    ]


def _key(key: Pubkey) -> str:
    return "{{" + ", ".join(map(str, bytes(key))) + "}}"


def _number(raw: bytes) -> str:
    return f"{int.from_bytes(raw, 'little'):#018x}ul"
