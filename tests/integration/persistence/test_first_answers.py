"""First answers on PostgreSQL: one claim wins, nobody keeps too much, and what is old goes.

Seen to fail for: a claim that looks first and inserts then, a bound on keys alone, a sweep that was forgotten.
"""

import asyncio

import asyncpg
import pytest

from engine.records import TooManyFirstAnswers
from persistence.first_answers import PostgresFirstAnswers

PRINT = b"f" * 32
ANN, BOB = 7, 8


async def test_of_many_claims_at_once_one_wins(pool: asyncpg.Pool) -> None:
    answers = PostgresFirstAnswers(pool, 100, 1_000)

    claims = await asyncio.gather(*(answers.claim(ANN, "k", PRINT, n, 1_000) for n in range(1, 30)))

    assert claims.count(None) == 1
    won = claims.index(None) + 1
    assert {(one.began_us, one.status) for one in claims if one is not None} == {(won, 0)}


async def test_an_answer_is_found_until_it_expires(pool: asyncpg.Pool) -> None:
    answers = PostgresFirstAnswers(pool, 100, 1_000)
    assert await answers.claim(ANN, "k", PRINT, 1, 100) is None
    await answers.keep(ANN, "k", 1, 201, "application/json", b"{}")

    known = await answers.claim(ANN, "k", b"g" * 32, 99, 200)

    assert known is not None
    assert (known.fingerprint, known.status, known.media_type, known.body) == (PRINT, 201, "application/json", b"{}")
    assert await answers.claim(BOB, "k", PRINT, 99, 200) is None
    assert await answers.claim(ANN, "k", PRINT, 100, 200) is None
    await answers.keep(ANN, "k", 1, 201, "application/json", b"late")  # by one that was overtaken
    again = await answers.claim(ANN, "k", PRINT, 101, 200)
    assert again is not None
    assert (again.status, again.body) == (0, None)


async def test_a_released_key_is_free(pool: asyncpg.Pool) -> None:
    answers = PostgresFirstAnswers(pool, 100, 1_000)
    await answers.claim(ANN, "k", PRINT, 1, 100)

    await answers.release(ANN, "k", 2)  # somebody else's
    assert await answers.claim(ANN, "k", PRINT, 3, 100) is not None
    await answers.release(ANN, "k", 1)

    assert await answers.claim(ANN, "k", PRINT, 4, 100) is None


async def test_one_caller_has_a_bounded_number_of_keys_and_bytes(pool: asyncpg.Pool) -> None:
    answers = PostgresFirstAnswers(pool, 3, 1_000)
    for key in "abc":
        assert await answers.claim(ANN, key, PRINT, 1, 100) is None
    with pytest.raises(TooManyFirstAnswers):
        await answers.claim(ANN, "d", PRINT, 2, 100)
    assert await answers.claim(ANN, "a", PRINT, 2, 100) is not None

    await answers.claim(BOB, "large", PRINT, 1, 100)
    await answers.keep(BOB, "large", 1, 200, "application/json", b"x" * 1_000)
    with pytest.raises(TooManyFirstAnswers):
        await answers.claim(BOB, "more", PRINT, 2, 100)
    assert await answers.claim(BOB, "more", PRINT, 100, 200) is None


async def test_what_has_expired_is_swept_by_later_claims_of_anybody(pool: asyncpg.Pool) -> None:
    answers = PostgresFirstAnswers(pool, 1_000, 1_000)
    for number in range(130):
        await answers.claim(ANN, f"k-{number}", PRINT, 1, 100)

    await answers.claim(BOB, "one", PRINT, 100, 200)
    await answers.claim(BOB, "two", PRINT, 101, 200)

    assert await pool.fetchval("SELECT count(*) FROM first_answers") == 2
