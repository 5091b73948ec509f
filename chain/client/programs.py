"""One program by its IDL: instructions made, addresses found, accounts, events and errors read.

anchorpy encodes and decodes; this adds what it does not know: fixed addresses and seeds of the new format, so that a
caller names only the accounts that nothing else decides.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias

from anchorpy.coder.coder import Coder
from construct import ConstructError, Container, ListContainer
from msgspec import Struct
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from chain.client.idl import old_idl
from chain.programs.interface import NAMES, Idl, discriminator, load_idl, program_id

INTEGER_BYTES: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i8": 1, "i16": 2, "i32": 4, "i64": 8}
DISCRIMINATOR_LENGTH: Final = 8
ACCOUNTS_KEPT_MAX: Final = 2_000  # that were decoded, by their bytes: the same few are read again and again
ADDRESSES_KEPT_MAX: Final = 20_000  # that were computed: some ten microseconds each

Values: TypeAlias = Mapping[str, Any]


class CannotEncode(Exception):
    """An instruction, argument or account is missing or does not fit the IDL; names it."""


class CannotDecode(Exception):
    """The bytes are not what they should be, such as an account of another program."""


class Event(Struct, frozen=True):
    """program, name and fields: integers, booleans, Pubkeys, bytes."""

    program: str
    name: str
    fields: dict[str, Any]


class _Account(Struct, frozen=True):
    """Of an instruction. needs: the accounts that its seeds name; seeds None: nothing tells where it is."""

    name: str
    signer: bool
    writable: bool
    seeds: list[Idl] | None
    needs: tuple[str, ...]


class _Call(Struct, frozen=True):
    """What the IDL says of an instruction, looked up once. fixed: accounts whose address it names."""

    name: str
    accounts: tuple[_Account, ...]
    names: frozenset[str]
    fixed: dict[str, Pubkey]
    arguments: dict[str, Any]  # their types


class Program:
    """Bound to one IDL; holds no connection."""

    def __init__(self, idl: Idl) -> None:
        self.name: str = idl["metadata"]["name"]
        self.id = program_id(idl)
        self._coder = Coder(old_idl(idl))
        self._calls = {each["name"]: _call(each) for each in idl["instructions"]}
        self._types = {t["name"]: {f["name"]: f["type"] for f in t["type"]["fields"]} for t in idl["types"]}
        self._errors = {each["code"]: each["name"] for each in idl.get("errors", [])}
        self._events = {discriminator("event", each["name"]) for each in idl.get("events", [])}
        self._decoded = lru_cache(ACCOUNTS_KEPT_MAX)(self._decode)

    def instruction(
        self, name: str, arguments: Values, accounts: Mapping[str, Pubkey], following: Sequence[AccountMeta] = ()
    ) -> Instruction:
        """`accounts` may leave out those that the IDL decides; given ones win. Raises CannotEncode."""
        call = self._call(name)
        found = self._all_accounts(call, arguments, accounts)
        metas = [AccountMeta(found[each.name], each.signer, each.writable) for each in call.accounts]
        if arguments.keys() != call.arguments.keys():
            raise CannotEncode(f"{self.name}.{name}: takes {sorted(call.arguments)}, not {sorted(arguments)}")
        try:
            data = self._coder.instruction.encode(name, {key: _encodable(each) for key, each in arguments.items()})
        except (ConstructError, TypeError, ValueError, KeyError) as error:
            raise CannotEncode(f"{self.name}.{name}: {error}") from error
        return Instruction(self.id, data, [*metas, *following])

    def address(self, instruction: str, account: str, arguments: Values, accounts: Mapping[str, Pubkey]) -> Pubkey:
        """Where an account of that instruction is, by the seeds of the IDL. Raises CannotEncode."""
        return self._all_accounts(self._call(instruction), arguments, accounts, only=account)[account]

    def account(self, data: bytes, expected: str) -> dict[str, Any]:
        """The fields of an account of that type. Raises CannotDecode."""
        return dict(self._decoded(data, expected))

    def _decode(self, data: bytes, expected: str) -> dict[str, Any]:
        if data[:DISCRIMINATOR_LENGTH] != discriminator("account", expected):
            raise CannotDecode(f"{self.name}: not an account of type {expected}")
        try:
            return self._fields(expected, self._coder.accounts.decode(data))
        except ConstructError as error:
            raise CannotDecode(f"{self.name}: a damaged account of type {expected}: {error}") from error

    def event(self, data: bytes) -> Event | None:
        """None when the program knows no such event. Raises CannotDecode when it does, and the rest does not fit."""
        if data[:DISCRIMINATOR_LENGTH] not in self._events:
            return None
        try:
            event = self._coder.events.parse(data)
        except ConstructError as error:
            raise CannotDecode(f"{self.name}: a damaged event: {error}") from error
        return Event(self.name, event.name, self._fields(event.name, event.data))

    def error(self, code: int) -> str | None:
        """The name of a custom error number."""
        return self._errors.get(code)

    def _fields(self, kind: str, value: Any) -> dict[str, Any]:
        """Arrays of u8 are bytes here: ids, hashes and roots."""
        return {
            name: bytes(getattr(value, name)) if _is_bytes(of) else _plain(getattr(value, name))
            for name, of in self._types[kind].items()
        }

    def _call(self, name: str) -> _Call:
        try:
            return self._calls[name]
        except KeyError:
            raise CannotEncode(f"{self.name} has no instruction {name}") from None

    def _all_accounts(
        self, call: _Call, arguments: Values, accounts: Mapping[str, Pubkey], only: str | None = None
    ) -> dict[str, Pubkey]:
        if not call.names.issuperset(accounts):
            raise CannotEncode(f"{self.name}.{call.name}: has no account {sorted(set(accounts) - call.names)}")
        found = {**call.fixed, **accounts}
        waiting = [each for each in call.accounts if each.name not in found]
        while waiting:
            ready = [each for each in waiting if each.seeds is not None and all(need in found for need in each.needs)]
            ready = [each for each in ready if each.name == only] or ready
            for each in ready:
                found[each.name] = self._derive(call, each, arguments, found)
            waiting = [each for each in waiting if each.name not in found]
            if only in found:
                break
            if waiting and not ready:
                missing = ", ".join(each.name for each in waiting)
                raise CannotEncode(f"{self.name}.{call.name}: needs the accounts {missing}")
        return found

    def _derive(self, call: _Call, account: _Account, arguments: Values, found: Mapping[str, Pubkey]) -> Pubkey:
        seeds = []
        for seed in account.seeds or ():
            match seed["kind"]:
                case "const":
                    seeds.append(bytes(seed["value"]))
                case "account":
                    seeds.append(bytes(found[seed["path"]]))
                case "arg" if seed["path"] in arguments:
                    seeds.append(_seed(call.arguments[seed["path"]], arguments[seed["path"]]))
                case _:
                    raise CannotEncode(f"{self.name}.{call.name}: {account.name} needs {seed.get('path', seed)}")
        return _derived(tuple(seeds), self.id)


class Programs:
    """The five of an installation, each reached by its name."""

    def __init__(self, idls: Sequence[Idl]) -> None:
        found = {program.name: program for program in map(Program, idls)}
        if missing := set(NAMES) - set(found):
            raise CannotEncode(f"no IDL is given for {', '.join(sorted(missing))}")
        self.governance: Final = found["governance"]
        self.registry: Final = found["registry"]
        self.energy_token: Final = found["energy_token"]
        self.trading: Final = found["trading"]
        self.oracle: Final = found["oracle"]
        self.all: Final = tuple(found[name] for name in NAMES)

    def by_id(self, program: Pubkey) -> Program | None:
        return next((each for each in self.all if each.id == program), None)


def reference_programs() -> Programs:
    """Those that come with Wattbook."""
    return Programs([load_idl(name) for name in NAMES])


@lru_cache(ADDRESSES_KEPT_MAX)
def _derived(seeds: tuple[bytes, ...], program: Pubkey) -> Pubkey:
    return Pubkey.find_program_address(seeds, program)[0]


def _call(idl: Idl) -> _Call:
    accounts = []
    for each in idl["accounts"]:
        seeds = each["pda"]["seeds"] if "pda" in each else None
        needs = tuple(seed["path"] for seed in seeds or () if seed["kind"] == "account")
        accounts.append(_Account(each["name"], each.get("signer", False), each.get("writable", False), seeds, needs))
    fixed = {each["name"]: Pubkey.from_string(each["address"]) for each in idl["accounts"] if "address" in each}
    arguments = {each["name"]: each["type"] for each in idl["args"]}
    return _Call(idl["name"], tuple(accounts), frozenset(each.name for each in accounts), fixed, arguments)


def _seed(kind: Any, value: Any) -> bytes:
    if isinstance(kind, str) and kind in INTEGER_BYTES:
        return int(value).to_bytes(INTEGER_BYTES[kind], "little", signed=kind.startswith("i"))
    if kind == "pubkey" or (isinstance(kind, dict) and "array" in kind):
        return bytes(value)
    raise CannotEncode(f"a seed of type {kind}")


def _encodable(value: Any) -> Any:
    """anchorpy writes arrays of bytes from lists."""
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, Mapping):
        return Container({key: _encodable(each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return [_encodable(each) for each in value]
    return value


def _is_bytes(kind: Any) -> bool:
    return isinstance(kind, dict) and kind.get("array", [None])[0] == "u8"


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, ListContainer | list) else value
