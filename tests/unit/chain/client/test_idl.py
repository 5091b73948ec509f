"""New IDLs in the old format: anchorpy reads and writes every type of the five as an encoder of our own does.

Seen to fail for: a signer that got lost, a type name that was not unwrapped, a discriminator that is not compared.
"""

import copy
import random
import struct
from typing import Any

import pytest
from solders.pubkey import Pubkey

from chain.client.idl import IdlUnusable, converted, old_idl
from chain.client.programs import CannotDecode, CannotEncode, Program, Programs
from chain.programs.interface import NAMES, Idl, discriminator, load_idl

WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8}
RANDOM = random.Random(7)


def encoded(kind: Any, idl: Idl) -> tuple[bytes, Any]:
    """Borsh of a random value of the type, and the value."""
    match kind:
        case "bool":
            flag = RANDOM.random() < 0.5
            return bytes([flag]), flag
        case "pubkey":
            raw = RANDOM.randbytes(32)
            return raw, Pubkey(raw)
        case str():
            width, signed = WIDTHS[kind], kind.startswith("i")
            number = RANDOM.getrandbits(8 * width) - (2 ** (8 * width - 1) if signed else 0)
            return number.to_bytes(width, "little", signed=signed), number
        case {"array": ["u8", int() as size]}:
            raw = RANDOM.randbytes(size)
            return raw, raw
        case {"array": [inner, int() as size]}:
            items = [encoded(inner, idl) for _ in range(size)]
            return b"".join(raw for raw, _ in items), [value for _, value in items]
        case {"vec": inner}:
            items = [encoded(inner, idl) for _ in range(3)]
            return struct.pack("<I", 3) + b"".join(raw for raw, _ in items), [value for _, value in items]
        case {"defined": {"name": name}}:
            return encoded_fields(fields_of(idl, name), idl)
    raise AssertionError(kind)


def encoded_fields(fields: list[Any], idl: Idl) -> tuple[bytes, dict[str, Any]]:
    made = [(field["name"], *encoded(field["type"], idl)) for field in fields]
    return b"".join(raw for _, raw, _ in made), {name: value for name, _, value in made}


def fields_of(idl: Idl, name: str) -> list[Any]:
    fields: list[Any] = next(each["type"]["fields"] for each in idl["types"] if each["name"] == name)
    return fields


@pytest.mark.parametrize("name", NAMES)
def test_every_instruction_is_encoded_as_borsh_says(name: str) -> None:
    idl = load_idl(name)
    program = Program(idl)
    for each in idl["instructions"]:
        raw, arguments = encoded_fields(each["args"], idl)
        accounts = {account["name"]: Pubkey.new_unique() for account in each["accounts"]}

        made = program.instruction(each["name"], arguments, accounts)

        assert bytes(made.data) == discriminator("global", each["name"]) + raw
        assert [meta.pubkey for meta in made.accounts] == list(accounts.values())
        assert [meta.is_signer for meta in made.accounts] == [a.get("signer", False) for a in each["accounts"]]
        assert [meta.is_writable for meta in made.accounts] == [a.get("writable", False) for a in each["accounts"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_account_and_event_is_decoded_as_borsh_says(name: str) -> None:
    idl = load_idl(name)
    program = Program(idl)
    for each in idl["accounts"]:
        raw, fields = encoded_fields(fields_of(idl, each["name"]), idl)
        assert program.account(discriminator("account", each["name"]) + raw, each["name"]) == fields
    for each in idl["events"]:
        raw, fields = encoded_fields(fields_of(idl, each["name"]), idl)
        event = program.event(discriminator("event", each["name"]) + raw)
        assert event is not None
        assert (event.program, event.name, event.fields) == (name, each["name"], fields)


def test_bytes_that_are_no_account_are_refused() -> None:
    program = Program(load_idl("registry"))

    for data in (b"", bytes(8), discriminator("account", "User"), discriminator("account", "Meter") + bytes(200)):
        with pytest.raises(CannotDecode):
            program.account(data, "User")
    with pytest.raises(CannotDecode):
        program.event(discriminator("event", "UserRegistered") + b"short")


@pytest.mark.parametrize(
    ("name", "arguments", "accounts", "words"),
    [
        ("register", {}, {}, "no instruction register"),
        ("update_user", {}, {"authority": 1, "registrar": 1}, "takes"),
        ("update_user", {"status": 1}, {"registrar": 1}, "needs the accounts user, authority"),
        ("update_user", {"status": 1}, {"authority": 1, "registrar": 1, "bystander": 1}, "no account"),
        ("update_user", {"status": 256}, {"authority": 1, "registrar": 1}, "update_user"),
        ("update_user", {"status": "two"}, {"authority": 1, "registrar": 1}, "update_user"),
        ("register_meter", {}, {"authority": 1, "registrar": 1}, "meter needs serial_hash"),
    ],
)
def test_what_does_not_fit_the_idl_is_refused_by_name(
    name: str, arguments: dict[str, Any], accounts: dict[str, int], words: str
) -> None:
    keys = {account: Pubkey.new_unique() for account in accounts}

    with pytest.raises(CannotEncode, match=words):
        Program(load_idl("registry")).instruction(name, arguments, keys)


def test_an_installation_needs_all_five() -> None:
    with pytest.raises(CannotEncode, match="oracle"):
        Programs([load_idl(name) for name in NAMES if name != "oracle"])


def changed(change: Any) -> Idl:
    idl = copy.deepcopy(load_idl("registry"))
    change(idl)
    return idl


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda idl: idl.pop("address"), "spec 0.1.0"),
        (lambda idl: idl["metadata"].update(spec="0.2.0"), "spec 0.1.0"),
        (lambda idl: idl["instructions"][0].update(discriminator=[0] * 8), "discriminator of its own"),
        (lambda idl: idl["events"][0].update(discriminator=[0] * 8), "discriminator of its own"),
        (lambda idl: idl["instructions"][0].update(name="registerUser", discriminator=[]), "snake case"),
        (lambda idl: idl["types"].pop(0), "no type is given for Registry"),
        (lambda idl: idl["types"][0].update(serialization="custom"), "serialization custom"),
        (lambda idl: idl["types"][0]["type"].update(kind="union"), "kind union"),
        (lambda idl: idl["types"][0]["type"]["fields"][0].update(type={"map": ["u8", "u8"]}), "map"),
        (lambda idl: idl["types"][0]["type"]["fields"][0].update(
            type={"defined": {"name": "X", "generics": [{"kind": "type", "type": "u8"}]}}), "generic"),
        (lambda idl: idl["instructions"][1]["args"].append(
            {"name": "user", "type": {"defined": {"name": "User"}}}), "User"),
    ],
)  # fmt: skip
def test_what_the_old_format_cannot_say_is_refused(change: Any, words: str) -> None:
    with pytest.raises(IdlUnusable, match=words):
        old_idl(changed(change))


def test_flags_of_accounts_are_carried_over() -> None:
    made = converted(load_idl("registry"))["instructions"][1]["accounts"]

    assert [(each["name"], each["isMut"], each["isSigner"]) for each in made] == [
        ("user", True, False),
        ("registry", True, False),
        ("governance", False, False),
        ("authority", False, False),
        ("registrar", True, True),
        ("system_program", False, False),
    ]


def test_enums_options_and_nested_accounts_are_carried_over() -> None:
    idl = changed(lambda idl: None)
    kinds = [
        {"name": "Shape", "type": {"kind": "enum", "variants": [
            {"name": "Dot"}, {"name": "Line", "fields": [{"name": "length", "type": {"option": "u64"}}]},
            {"name": "Pair", "fields": ["u8", {"vec": "pubkey"}]}]}},
        {"name": "Name", "type": {"kind": "type", "alias": {"coption": "pubkey"}}},
    ]  # fmt: skip
    idl["types"] += kinds
    idl["instructions"][0]["accounts"].append({"name": "group", "accounts": [{"name": "one", "optional": True}]})
    idl["instructions"][0]["returns"] = "pubkey"

    made = converted(idl)

    assert made["types"][0]["type"]["variants"][1]["fields"] == [{"name": "length", "type": {"option": "u64"}}]
    assert made["types"][0]["type"]["variants"][2]["fields"] == ["u8", {"vec": "publicKey"}]
    assert made["types"][1]["type"]["value"] == {"coption": "publicKey"}
    assert made["instructions"][0]["accounts"][-1]["accounts"][0]["isOptional"] is True
    assert made["instructions"][0]["returns"] == "publicKey"
