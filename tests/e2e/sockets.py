"""A client of the WebSocket, written from the API's description alone."""

import itertools
import zlib
from decimal import Decimal
from time import monotonic
from typing import Any

import msgspec
from websockets.sync.client import connect

from tests.support.patience import HUNG_SECONDS


class Socket:
    """`ask` returns the answer of a request; what arrives meanwhile waits for `on`."""

    def __init__(self, url: str, *, binary: bool = False) -> None:
        self._connection = connect(url.replace("http", "ws", 1) + "/ws", compression=None, max_size=None)
        self._binary = binary
        self._numbers = itertools.count(1)
        self._news: list[Any] = []

    def login(self, token: str) -> "Socket":
        assert self.ask("auth", token=token)["ok"]
        return self

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self.send({"op": op, "id": number, **fields})
        answer: dict[str, Any] = self.until(lambda one: isinstance(one, dict) and one.get("id") == number)
        return answer

    def compact(self, *fields: Any) -> list[Any]:
        number = next(self._numbers)
        self.send(["o", number, *fields])
        answer: list[Any] = self.until(lambda one: isinstance(one, list) and one[1] == number)
        return answer

    def on(self, channel: str, kind: str = "", market: str = "") -> dict[str, Any]:
        """The next message of a channel."""

        def wanted(one: Any) -> bool:
            return (
                isinstance(one, dict)
                and one.get("channel") == channel
                and kind in ("", one["type"])
                and market in ("", one.get("market"))
            )

        message: dict[str, Any] = self.until(wanted)
        return message

    def until(self, wanted: Any, seconds: float = HUNG_SECONDS) -> Any:
        for place, one in enumerate(self._news):
            if wanted(one):
                return self._news.pop(place)
        deadline = monotonic() + seconds
        while True:
            frame = self._connection.recv(timeout=max(0.0, deadline - monotonic()))
            one = msgspec.json.decode(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)
            if wanted(one):
                return one
            self._news.append(one)

    def send(self, body: Any) -> None:
        if self._binary:
            self._connection.send(msgspec.msgpack.encode(body))
        else:
            self._connection.send(msgspec.json.encode(body).decode())

    def close(self) -> None:
        self._connection.close()


class Book:
    """The book of one market as its feed tells it; fails at a gap or a wrong checksum."""

    def __init__(self) -> None:
        self.sequence = -1
        self.deltas = 0
        self.bids: dict[Decimal, str] = {}
        self.asks: dict[Decimal, str] = {}

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "snapshot":
            self.bids, self.asks = {}, {}
        else:
            assert message["previous_sequence"] == self.sequence, "a gap in the feed"
            self.deltas += 1
        self.sequence = message["sequence"]
        for side, levels in ((self.bids, message["bids"]), (self.asks, message["asks"])):
            for price, quantity, _orders in levels:
                side[Decimal(price)] = quantity
                if Decimal(quantity) == 0:
                    del side[Decimal(price)]
        assert self.checksum() == message["checksum"]

    def checksum(self) -> int:
        bids = [f"{price}:{self.bids[price]}" for price in sorted(self.bids, reverse=True)[:10]]
        asks = [f"{price}:{self.asks[price]}" for price in sorted(self.asks)[:10]]
        pairs = itertools.zip_longest(bids, asks)
        return zlib.crc32("|".join(text for pair in pairs for text in pair if text is not None).encode())
