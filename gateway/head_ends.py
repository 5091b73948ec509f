"""What a head-end system may do, beyond what its key says: the meters that it speaks for, and the key it signs with."""

import asyncio
import uuid

from msgspec import Struct
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from engine.records import ApiKeyRecord
from gateway.auth.callers import Caller
from gateway.auth.fresh import Fresh
from gateway.errors import GatewayCode, Problem
from gateway.ports import ApiKeys, Elapsed


class HeadEnd(Struct, frozen=True):
    key_id: str
    meter_ids: frozenset[bytes]
    public_key: bytes | None


class HeadEnds:
    """As the store has them now or shortly before."""

    def __init__(self, keys: ApiKeys, elapsed: Elapsed, fresh_seconds: float, kept_max: int) -> None:
        self._keys = keys
        self._fresh: Fresh[str, HeadEnd] = Fresh("head-end", self._look, elapsed, fresh_seconds, kept_max)

    async def of(self, caller: Caller) -> HeadEnd:
        """Raises UNAUTHENTICATED when its key was revoked meanwhile. A person of this role speaks for no meter."""
        if caller.user_id > 0:
            return HeadEnd("", frozenset(), None)
        found = await self._fresh.get(caller.key_id)
        if found is None:
            raise Problem(GatewayCode.UNAUTHENTICATED, "the API key is not valid")
        return found

    async def close(self) -> None:
        await self._fresh.close()

    async def _look(self, key_id: str) -> HeadEnd | None:
        key = await self._keys.by_id(key_id)
        return HeadEnd(key_id, _meter_ids(key), key.public_key) if key is not None else None


async def check_batch(head_end: HeadEnd, key_id: str, message: bytes, signature: bytes) -> None:
    """Raises BAD_SIGNATURE unless the head-end has signed this with its own key."""
    if head_end.public_key is None or key_id != head_end.key_id:
        raise Problem(GatewayCode.BAD_SIGNATURE, "the batch is not signed with the key of this head-end")
    try:
        await asyncio.to_thread(VerifyKey(head_end.public_key).verify, message, signature)
    except (BadSignatureError, ValueError):  # the latter: not as long as a signature
        raise Problem(GatewayCode.BAD_SIGNATURE, "the signature does not fit the batch") from None


def _meter_ids(key: ApiKeyRecord) -> frozenset[bytes]:
    """What is no UUID names no meter."""
    ids = set()
    for text in key.meter_ids:
        try:
            ids.add(uuid.UUID(text).bytes)
        except ValueError:
            continue
    return frozenset(ids)
