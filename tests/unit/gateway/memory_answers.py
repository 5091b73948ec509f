"""First answers in memory, for one process: what persistence/first_answers.py does in PostgreSQL."""

from msgspec.structs import replace

from engine.records import FirstAnswer, TooManyFirstAnswers


class MemoryFirstAnswers:
    def __init__(self, keys_max: int = 5) -> None:
        self.keys_max = keys_max
        self.rows: dict[tuple[int, str], tuple[FirstAnswer, int]] = {}  # with when it expires

    async def claim(
        self, caller_id: int, key: str, fingerprint: bytes, began_us: int, expires_us: int
    ) -> FirstAnswer | None:
        known, known_until_us = self.rows.get((caller_id, key), (None, 0))
        if known is not None and began_us < known_until_us:
            return known
        own = [until for (caller, _), (_, until) in self.rows.items() if caller == caller_id and began_us < until]
        if len(own) >= self.keys_max:
            raise TooManyFirstAnswers
        self.rows[caller_id, key] = FirstAnswer(fingerprint, began_us, 0, "", None), expires_us
        return None

    async def keep(
        self, caller_id: int, key: str, began_us: int, status: int, media_type: str, body: bytes | None
    ) -> None:
        row, until_us = self.rows[caller_id, key]
        assert row.began_us == began_us
        self.rows[caller_id, key] = replace(row, status=status, media_type=media_type, body=body), until_us

    async def release(self, caller_id: int, key: str, began_us: int) -> None:
        assert self.rows[caller_id, key][0].began_us == began_us
        del self.rows[caller_id, key]
