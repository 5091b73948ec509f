"""Subscriptions of the WebSocket: logs, signature, account, program, slot, root; each told at its own commitment.

Rule: a client that does not read is let go. Its queue has a bound, and a notification that finds it full ends it.
"""

import asyncio
from collections import deque
from typing import Any, Final

import msgspec
from solders.account import Account
from solders.pubkey import Pubkey

from chain.devnet import shapes
from chain.devnet.ledger import FINALIZED_AFTER, LEVELS, Ledger
from chain.devnet.store import Record
from chain.devnet.wire import VERSION, matches

WAITING_MAX: Final = 10_000
SUBSCRIPTIONS_MAX: Final = 100  # of one connection
KINDS: Final = ("logs", "signature", "account", "program", "slot", "root")

Changed = dict[Pubkey, Account | None]


class Client:
    """One connection: what waits to be written to it, and whether it was let go."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[str | None] = asyncio.Queue(WAITING_MAX + 1)
        self.let_go = False

    def tell(self, message: dict[str, Any]) -> None:
        if self.let_go:
            return
        if self.waiting.qsize() >= WAITING_MAX:
            self.let_go = True
            self.waiting.put_nowait(None)
            return
        self.waiting.put_nowait(msgspec.json.encode(message).decode())


class Subscription:
    def __init__(self, number: int, kind: str, client: Client, parameters: list[Any]) -> None:
        options = parameters[-1] if parameters and isinstance(parameters[-1], dict) and len(parameters) > 1 else {}
        self.number, self.kind, self.client, self.subject = number, kind, client, parameters[0] if parameters else None
        self.options: dict[str, Any] = options
        self.level: str = options.get("commitment") or "finalized"

    def tell(self, result: Any) -> None:
        parameters = {"result": result, "subscription": self.number}
        self.client.tell({"jsonrpc": "2.0", "method": f"{self.kind}Notification", "params": parameters})


class Subscriptions:
    """Of all connections. `tick` follows each slot."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._all: dict[int, Subscription] = {}
        self._number = 0
        self._landed: deque[tuple[Record, Changed]] = deque()  # not finalized yet, oldest first
        ledger.listeners.append(self._on_landed)

    def answer(self, request: Any, client: Client) -> dict[str, Any]:
        """The response to one decoded request of the WebSocket."""
        method, number = str(request.get("method", "")), request.get("id")
        parameters = request.get("params") or []
        kind = method.removesuffix("Subscribe")
        if method.endswith("Unsubscribe") and parameters:
            known = self._all.get(parameters[0])
            found = known is not None and known.client is client and self._all.pop(parameters[0]) is known
            return {"jsonrpc": "2.0", "result": found, "id": number}
        if not method.endswith("Subscribe") or kind not in KINDS:
            return _failure(number, -32601, "Method not found")
        if sum(each.client is client for each in self._all.values()) >= SUBSCRIPTIONS_MAX:
            return _failure(number, -32603, f"at most {SUBSCRIPTIONS_MAX} subscriptions")
        self._number += 1
        made = Subscription(self._number, kind, client, parameters)
        if made.level not in LEVELS or (kind in ("logs", "signature", "account", "program") and made.subject is None):
            return _failure(number, -32602, "Invalid params")
        self._all[self._number] = made
        return {"jsonrpc": "2.0", "result": self._number, "id": number}

    def after_answer(self, number: int) -> None:
        """A signature that has landed already is told at once."""
        made = self._all.get(number)
        if made is None or made.kind != "signature":
            return
        record = self._ledger.store.transaction(str(made.subject))
        if record and record["slot"] <= self._ledger.slot_at(made.level):
            self._tell(made, record, {})

    def drop(self, client: Client) -> None:
        self._all = {number: each for number, each in self._all.items() if each.client is not client}

    def tick(self) -> None:
        """A slot has begun: tell it, and what reached `confirmed` or `finalized` by it."""
        slot = self._ledger.slot
        for each in list(self._all.values()):
            if each.kind == "slot":
                each.tell({"parent": slot - 1, "root": max(0, slot - FINALIZED_AFTER), "slot": slot})
            elif each.kind == "root":
                each.tell(max(0, slot - FINALIZED_AFTER))
        for record, changed in self._landed:
            if record["slot"] <= self._ledger.slot_at("confirmed") and not record.get("told"):
                record["told"] = True
                self._tell_all("confirmed", record, changed)
        while self._landed and self._landed[0][0]["slot"] <= self._ledger.slot_at("finalized"):
            self._tell_all("finalized", *self._landed.popleft())

    def forget(self, signatures: list[str]) -> None:
        """A fork dropped these: nobody hears of them again."""
        gone = set(signatures)
        self._landed = deque(each for each in self._landed if each[0]["signature"] not in gone)

    def _on_landed(self, record: Record, changed: Changed) -> None:
        self._landed.append((dict(record), changed))
        self._tell_all("processed", record, changed)

    def _tell_all(self, level: str, record: Record, changed: Changed) -> None:
        for each in list(self._all.values()):
            if each.level == level and each.kind in ("logs", "signature", "account", "program"):
                self._tell(each, record, changed)

    def _tell(self, to: Subscription, record: Record, changed: Changed) -> None:
        asked = to.options.get("encoding")

        def now(value: Any) -> Any:
            return {"context": {"apiVersion": VERSION, "slot": record["slot"]}, "value": value}

        match to.kind:
            case "logs" if _mentions(to.subject, record):
                to.tell(now({"signature": record["signature"], "err": record["err"], "logs": record["logs"]}))
            case "signature" if record["signature"] == to.subject:
                self._all.pop(to.number, None)
                to.tell(now({"err": record["err"]}))
            case "account":
                for account in (found for key, found in changed.items() if str(key) == to.subject):
                    to.tell(now(shapes.account(account or Account(0, b"", Pubkey.default()), asked)))
            case "program":
                for key, found in changed.items():
                    owned = found is not None and str(found.owner) == to.subject
                    if found and owned and matches(bytes(found.data), to.options.get("filters")):
                        to.tell(now({"pubkey": str(key), "account": shapes.account(found, asked)}))


def _mentions(wanted: Any, record: Record) -> bool:
    if isinstance(wanted, dict):
        return any(each in record["keys"] for each in wanted.get("mentions", []))
    return wanted in ("all", "allWithVotes")


def _failure(number: Any, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": number}
