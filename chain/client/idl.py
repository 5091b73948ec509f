"""An IDL in Anchor's new format (spec 0.1.0) as the old one, which is all that anchorpy reads.

Rule: what the old format cannot say is refused, never guessed. anchorpy computes discriminators from names, so an IDL
whose discriminators are others would be sent to the wrong instruction: it is refused too.
"""

import json
from typing import Any, Final

from anchorpy_core.idl import Idl as OldIdl
from pyheck import snake

from chain.programs.interface import KINDS, Idl, discriminator

SERIALIZATIONS: Final = ("borsh", "bytemuck", "bytemuckunsafe")  # without padding they are the same bytes


class IdlUnusable(Exception):
    """The IDL says something that anchorpy cannot do; names what."""


def old_idl(idl: Idl) -> OldIdl:
    """What anchorpy takes. Raises IdlUnusable."""
    try:
        return OldIdl.from_json(json.dumps(converted(idl)))
    except ValueError as error:
        raise IdlUnusable(f"{idl['metadata']['name']}: {error}") from error


def converted(idl: Idl) -> Idl:
    """The old format's JSON. Raises IdlUnusable."""
    if "address" not in idl or idl.get("metadata", {}).get("spec") != "0.1.0":
        raise IdlUnusable("the IDL is not of spec 0.1.0")
    _check_discriminators(idl)
    types = {each["name"]: each for each in idl.get("types", [])}
    roots = [each["name"] for key in ("accounts", "events") for each in idl.get(key, [])]
    missing = [name for name in roots if name not in types]
    if missing:
        raise IdlUnusable(f"no type is given for {', '.join(missing)}")
    arguments = _referred([each["args"] for each in idl["instructions"]])
    twice = arguments & {each["name"] for each in idl.get("accounts", [])}
    if twice:
        raise IdlUnusable(f"{', '.join(sorted(twice))}: is an account and an argument, which anchorpy would find twice")
    referred = _referred([each["type"] for each in types.values()]) | arguments
    return {
        "version": idl["metadata"]["version"],
        "name": idl["metadata"]["name"],
        "instructions": [_instruction(each) for each in idl["instructions"]],
        "accounts": [_typedef(types[each["name"]]) for each in idl.get("accounts", [])],
        "types": [_typedef(each) for name, each in types.items() if name not in roots or name in referred],
        "events": [_event(types[each["name"]]) for each in idl.get("events", [])],
        "errors": [
            {"code": e["code"], "name": e["name"], "msg": e.get("msg", e["name"])} for e in idl.get("errors", [])
        ],
        "metadata": {"address": idl["address"]},
    }


def _check_discriminators(idl: Idl) -> None:
    for kind, key in KINDS:
        for item in idl.get(key, []):
            name = item["name"]
            if kind == "global" and snake(name) != name:
                raise IdlUnusable(f"instruction {name}: is not in snake case")
            if bytes(item.get("discriminator", discriminator(kind, name))) != discriminator(kind, name):
                raise IdlUnusable(f"{name}: has a discriminator of its own")


def _instruction(instruction: Idl) -> Idl:
    made = {
        "name": instruction["name"],
        "accounts": _accounts(instruction["accounts"]),
        "args": _fields(instruction["args"]),
    }
    if instruction.get("returns"):
        made["returns"] = _type(instruction["returns"])
    return made


def _accounts(accounts: list[Idl]) -> list[Idl]:
    made: list[Idl] = []
    for each in accounts:
        if "accounts" in each:
            made.append({"name": each["name"], "accounts": _accounts(each["accounts"])})
            continue
        flags = {"isMut": each.get("writable", False), "isSigner": each.get("signer", False)}
        made.append({"name": each["name"], **flags, **({"isOptional": True} if each.get("optional") else {})})
    return made


def _event(kind: Idl) -> Idl:
    fields = _fields(kind["type"].get("fields", []))
    return {"name": kind["name"], "fields": [{**field, "index": False} for field in fields]}


def _typedef(kind: Idl) -> Idl:
    name, body = kind["name"], kind["type"]
    serialization = kind.get("serialization", "borsh")
    if serialization not in SERIALIZATIONS:
        raise IdlUnusable(f"{name}: serialization {serialization}")
    match body["kind"]:
        case "struct":
            return {"name": name, "type": {"kind": "struct", "fields": _fields(body.get("fields", []))}}
        case "enum":
            return {"name": name, "type": {"kind": "enum", "variants": [_variant(each) for each in body["variants"]]}}
        case "alias" | "type":
            return {"name": name, "type": {"kind": "alias", "value": _type(body.get("value", body.get("alias")))}}
    raise IdlUnusable(f"{name}: kind {body['kind']}")


def _variant(variant: Idl) -> Idl:
    fields = variant.get("fields")
    if not fields:
        return {"name": variant["name"]}
    named = isinstance(fields[0], dict) and "name" in fields[0]
    return {"name": variant["name"], "fields": _fields(fields) if named else [_type(each) for each in fields]}


def _fields(fields: list[Any]) -> list[Idl]:
    """Those without a name get one by their place."""
    return [
        {"name": field["name"], "type": _type(field["type"])}
        if isinstance(field, dict) and "name" in field
        else {"name": f"field{place}", "type": _type(field)}
        for place, field in enumerate(fields)
    ]


def _type(kind: Any) -> Any:
    match kind:
        case "pubkey":
            return "publicKey"
        case str():
            return kind
        case {"defined": {"name": name, "generics": [_, *_]}}:
            raise IdlUnusable(f"{name}: generic types")
        case {"defined": str() as name} | {"defined": {"name": str() as name}}:
            return {"defined": name}
        case {"option": inner}:
            return {"option": _type(inner)}
        case {"coption": inner}:
            return {"coption": _type(inner)}
        case {"vec": inner}:
            return {"vec": _type(inner)}
        case {"array": [inner, int() as size]}:
            return {"array": [_type(inner), size]}
    raise IdlUnusable(f"type {json.dumps(kind)}")


def _referred(value: Any) -> set[str]:
    """Names of all defined types that the value mentions."""
    match value:
        case {"defined": str() as name} | {"defined": {"name": str() as name}}:
            return {name}
        case dict():
            return {name for each in value.values() for name in _referred(each)}
        case list():
            return {name for each in value for name in _referred(each)}
    return set()
