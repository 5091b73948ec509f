"""The programs' interfaces: IDLs in Anchor's new format, and what follows from them.

An IDL says names, accounts, arguments, types and errors. Discriminators and the addresses of accounts whose seeds are
constants follow from it; `derived` fills them in, so that nobody computes them by hand, and a test keeps them true.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from solders.pubkey import Pubkey

FOLDER: Final = Path(__file__).parent
IDLS: Final = FOLDER / "idl"
BUILT: Final = FOLDER / "built"
NAMES: Final = ("governance", "registry", "energy_token", "trading", "oracle")
LINE_MAX: Final = 120

Idl: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["global", "account", "event"]


KINDS: Final[tuple[tuple[Kind, str], ...]] = (("global", "instructions"), ("account", "accounts"), ("event", "events"))


def load_idl(name: str) -> Idl:
    """One of NAMES, as it stands in its file."""
    idl: Idl = json.loads((IDLS / f"{name}.json").read_text("utf-8"))
    return idl


def program_id(idl: Idl) -> Pubkey:
    return Pubkey.from_string(idl["address"])


def discriminator(kind: Kind, name: str) -> bytes:
    """The 8 bytes that begin an instruction ("global"), an account or an event. Source: Anchor's wire format."""
    return hashlib.sha256(f"{kind}:{name}".encode()).digest()[:8]


def fixed_address(idl: Idl, account: Idl) -> tuple[Pubkey, int] | None:
    """Address and bump of an account of an instruction when constants alone decide it, else None."""
    if "pda" not in account:
        return None
    seeds = account["pda"]["seeds"]
    if any(seed["kind"] != "const" for seed in seeds):
        return None
    return Pubkey.find_program_address([bytes(seed["value"]) for seed in seeds], program_id(idl))


def derived(idl: Idl, governance: Idl) -> Idl:
    """The IDL with discriminators, error numbers and governance's address written out."""
    config, _ = Pubkey.find_program_address([b"config"], program_id(governance))
    for kind, key in KINDS:
        for item in idl[key]:
            item["discriminator"] = list(discriminator(kind, item["name"]))
    for instruction in idl["instructions"]:
        for account in instruction["accounts"]:
            if account["name"] == "governance":
                account["address"] = str(config)
    for number, error in enumerate(idl["errors"], 6_000):
        error["code"] = number
    return idl


def write_idl(name: str, idl: Idl) -> None:
    (IDLS / f"{name}.json").write_text(shown(idl), "utf-8")


def shown(idl: Idl) -> str:
    """JSON whose innermost objects and lists take one line each."""
    return f"{_shown(idl, 0)}\n"


def _shown(value: Any, depth: int) -> str:
    flat = json.dumps(value)
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not inner or (depth and len(flat) + 2 * depth <= LINE_MAX and not any(_deep(each) for each in inner)):
        return flat
    edge, indent = "  " * depth, "  " * (depth + 1)
    if isinstance(value, dict):
        lines = [f"{indent}{json.dumps(key)}: {_shown(each, depth + 1)}" for key, each in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{edge}}}"
    return "[\n" + ",\n".join(indent + _shown(each, depth + 1) for each in value) + f"\n{edge}]"


def _deep(value: Any) -> bool:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return any(isinstance(each, dict) for each in inner) and len(inner) > 1
