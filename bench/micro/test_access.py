"""What it costs to know who asks: an order pays for a token or key that was seen before, not for its signature.

Run:  python -m pytest bench/micro/test_access.py --benchmark-enable --benchmark-columns=median,ops,rounds
"""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from engine.records import ApiKeyRecord, UserRecord
from gateway.auth.api_keys import Secrets, Uses
from gateway.auth.callers import Caller, Callers
from gateway.auth.keys import open_keys, open_pepper
from gateway.auth.tokens import AccessTokens

NOW_US = 1_800_000_000_000_000
ANN = UserRecord(1_001, "ann@campus.example", "Ann", "student", "active", "Z1", b"x", 0)


class Store:
    """One person with one key."""

    def __init__(self, key: ApiKeyRecord) -> None:
        self._key = key

    async def by_id(self, number: int | str) -> UserRecord | ApiKeyRecord:
        return ANN if isinstance(number, int) else self._key


class Entry:
    def __init__(self, folder: Path) -> None:
        secrets = Secrets(open_pepper(folder))
        key_id, self.api_key, hashed = secrets.make()
        record = ApiKeyRecord(key_id, 1, ANN.user_id, "k", ("trade",), hashed, (), None, 0, 2 * NOW_US, None)
        store = cast("Any", Store(record))
        keys = open_keys(folder)

        def clock() -> int:
            return NOW_US

        tokens, self.forgetful = (
            AccessTokens(keys, clock, clock, issuer="i", audience="a", seconds=900, remembered_max=most)
            for most in (10, 0)
        )
        self.token = tokens.issue(ANN.user_id, ANN.role, "session")
        stay = cast("Any", None)  # asked about people of a directory only
        self.callers = Callers(store, store, tokens, secrets, Uses(store, 5), stay, clock, clock, 900, 5, kept_max=10)


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path)


def done(asked: Coroutine[Any, Any, Caller]) -> Caller:
    """The answer of what does not wait for anything."""
    try:
        asked.send(None)
    except StopIteration as answer:
        return cast("Caller", answer.value)
    raise AssertionError("it waited")


def test_a_token_that_was_seen_before(benchmark: BenchmarkFixture, entry: Entry) -> None:
    assert benchmark(lambda: done(entry.callers.of(entry.token, ""))).user_id == ANN.user_id


def test_a_key_that_was_seen_before(benchmark: BenchmarkFixture, entry: Entry) -> None:
    assert benchmark(lambda: done(entry.callers.of("", entry.api_key))).scopes == ("trade",)


def test_a_token_whose_signature_is_verified(benchmark: BenchmarkFixture, entry: Entry) -> None:
    assert benchmark(lambda: entry.forgetful.check(entry.token)).user_id == ANN.user_id
