"""A trader's view of the API, for load, demo and tests: log in, place, repeat what is unknown, remember every answer.

`AckLog` is the judge of every fault test: what the exchange has acknowledged, written down by the client.
"""

import asyncio
import secrets
from pathlib import Path
from typing import IO, Any

import msgspec

from bench.http import Answer, ConnectionBroken, HttpPool, request_bytes

UNKNOWN_STATUSES = (502, 503, 504)
REPEAT_SECONDS_MAX = 30.0


class ApiError(Exception):
    """The API refused; `problem` is its answer."""

    def __init__(self, status: int, problem: Any) -> None:
        super().__init__(f"{status}: {problem}")
        self.status, self.problem = status, problem


class Acknowledgement(msgspec.Struct, frozen=True, gc=False):
    """One answered write: the order as the API showed it."""

    participant: str
    order_id: str
    client_order_id: str
    market: str
    side: str
    quantity: str
    filled_quantity: str
    status: str
    sequence: int
    trades: tuple[str, ...] = ()
    repeated: bool = False


class AckLog:
    """Every acknowledgement, one JSON object a line, flushed as it comes; in memory too."""

    def __init__(self, path: Path | None = None) -> None:
        self.acknowledgements: list[Acknowledgement] = []
        self.count = 0
        self._file: IO[bytes] | None = path.open("ab", buffering=0) if path is not None else None

    def add_bytes(self, participant: str, body: bytes) -> None:
        """The same for an answer that nobody else reads."""
        self.add(participant, msgspec.json.decode(body))

    def add(self, participant: str, order: dict[str, Any]) -> None:
        ack = Acknowledgement(
            participant=participant,
            order_id=order["order_id"],
            client_order_id=order["client_order_id"] or "",
            market=order["market"],
            side=order["side"],
            quantity=order["quantity"],
            filled_quantity=order["filled_quantity"],
            status=order["status"],
            sequence=order["sequence"],
            trades=tuple(fill["trade_id"] for fill in order["fills"]),
            repeated=bool(order.get("repeated")),
        )
        self.acknowledgements.append(ack)
        self.count += 1
        if self._file is not None:
            self._file.write(msgspec.json.encode(ack) + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class Trader:
    """One logged-in participant."""

    def __init__(self, pool: HttpPool, host: str, email: str, password: str) -> None:
        self._pool, self._host = pool, host
        self.email, self._password = email, password
        self.token = ""
        self.user_id = ""

    async def register(self, name: str) -> None:
        """Create the account if there is none, then log in."""
        body = {"email": self.email, "password": self._password, "name": name}
        answer = await self.send("POST", "/auth/register", body)
        if answer.status not in (201, 409):
            raise ApiError(answer.status, answer.json())
        await self.login()

    async def login(self) -> None:
        session = await self.call("POST", "/auth/login", {"email": self.email, "password": self._password})
        self.token = session["access_token"]
        self.user_id = (await self.call("GET", "/users/me"))["id"]

    async def deposit(self, asset: str, amount: str) -> None:
        await self.call("POST", "/deposits", {"asset": asset, "amount": amount})

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer. Raises ApiError for 4xx and 5xx."""
        answer = await self.send(method, path, body)
        if answer.status >= 400:
            raise ApiError(answer.status, _decoded(answer))
        return answer.json() if answer.body else None

    async def send(self, method: str, path: str, body: Any = None) -> Answer:
        encoded = msgspec.json.encode(body) if body is not None else b""
        return await self._pool.request(request_bytes(method, "/api/v1" + path, self._host, self.token, encoded))

    async def place(self, order: dict[str, Any], log: AckLog) -> Answer:
        """Place an order until its outcome is known: an unknown one is repeated with the same client_order_id.

        Raises TimeoutError when it stays unknown for too long.
        """
        order.setdefault("client_order_id", secrets.token_hex(8))
        async with asyncio.timeout(REPEAT_SECONDS_MAX):
            while True:
                try:
                    answer = await self.send("POST", "/orders", order)
                except (ConnectionBroken, ConnectionError):
                    await asyncio.sleep(0.1)
                    continue
                if answer.status in UNKNOWN_STATUSES or answer.status == 429:
                    await asyncio.sleep(0.05)
                    continue
                if answer.status == 201:
                    log.add(self.user_id, answer.json())
                return answer


def _decoded(answer: Answer) -> Any:
    try:
        return answer.json()
    except msgspec.DecodeError:
        return answer.body[:500].decode(errors="replace")


def new_password() -> str:
    return secrets.token_urlsafe(18)
