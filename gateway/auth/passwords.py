"""Passwords: what is acceptable, and the slow hash that keeps them.

bcrypt reads 72 bytes at most, so it gets the base64 of the SHA-256 of the password: every character counts. It runs in
a few threads of its own, because one hash takes a quarter of a second and must not stop the event loop.
"""

import asyncio
import base64
import hashlib
import re
import secrets
import string
import unicodedata
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

import bcrypt

from engine.views import Fault
from gateway.errors import Problem, invalid

_T = TypeVar("_T")

LENGTH_MIN: Final = 12
LENGTH_MAX: Final = 128
COST_MIN: Final = 12
_BCRYPT64: Final = "./" + string.ascii_letters + string.digits
_HASH_CHARACTERS: Final = 31  # of the hash itself, after its salt

# The usual suspects of 12 and more characters; shorter ones are refused for their length.
_COMMON: Final = frozenset(
    [
        "123456789012",
        "1234567890123",
        "1234567890qw",
        "1q2w3e4r5t6y",
        "1qaz2wsx3edc",
        "1qaz2wsx3edc4rfv",
        "abcdefghijkl",
        "abc123abc123",
        "adminadminadmin",
        "administrator",
        "administrator1",
        "changeme1234",
        "changemeplease",
        "correcthorsebatterystaple",
        "iloveyou1234",
        "iloveyouforever",
        "letmein12345",
        "letmeinplease",
        "password1234",
        "password12345",
        "password123456",
        "passwordpassword",
        "passw0rd1234",
        "p@ssw0rd1234",
        "p@ssword1234",
        "qazwsxedcrfv",
        "qwerty123456",
        "qwertyqwerty",
        "qwertyuiop12",
        "qwertyuiop123",
        "qwertyuiopasdf",
        "qwertyuiop[]",
        "welcome12345",
        "welcome123456",
        "sunshine1234",
        "superman1234",
        "trustno1trustno1",
        "thisisapassword",
        "mypassword123",
        "mypassword1234",
        "football1234",
        "baseball1234",
        "monkey123456",
        "dragon123456",
        "secret123456",
        "111111111111",
        "000000000000",
        "zaq12wsxcde3",
        "asdfghjkl123",
        "asdfghjkl;'\\",
        "0123456789ab",
        "012345678910",
        "987654321098",
    ]
)


# What such passwords are made of; a word, with fewer than EXTRA_MIN characters beside it, is still one.
_COMMON_WORDS: Final = frozenset(
    """
    password passwort passw0rd p@ssw0rd p@ssword qwerty qwertz azerty letmein welcome iloveyou admin administrator
    changeme secret monkey dragon football baseball sunshine superman princess master login trustno1 wattbook
    1234567890 123456789 12345678 1234567 123456
    """.split()  # noqa: SIM905 - words read best as words
)
_EXTRA_MIN: Final = 6
_OWN_MIN: Final = 4  # shorter parts of a name are in too many good passwords
_PARTS: Final = re.compile(r"[\W_]+")


def check_acceptable(password: str, email: str, name: str, field: str = "password") -> None:
    """Raises VALIDATION_FAILED for a password that is too short or long, too common, or the person's own data."""
    if not LENGTH_MIN <= len(password) <= LENGTH_MAX:
        raise invalid(field, f"must have {LENGTH_MIN} to {LENGTH_MAX} characters")
    plain = password.casefold()
    local, _, domain = email.casefold().partition("@")
    own = {email.casefold(), local, domain, name.casefold(), name.casefold().replace(" ", "")}
    own |= {part for text in (local, domain, name.casefold()) for part in _PARTS.split(text)}
    if _is_hardly_more_than(plain, {word for word in own if len(word) >= _OWN_MIN}):
        raise invalid(field, "must be more than your own name or address")
    if plain in _COMMON or _repeats(plain) or _is_hardly_more_than(plain, _COMMON_WORDS):
        raise invalid(field, "is too common")


def _is_hardly_more_than(plain: str, words: Collection[str]) -> bool:
    rest = plain
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, "")
    return rest != plain and len(rest) < _EXTRA_MIN


def _repeats(plain: str) -> bool:
    """Few characters, or a short piece over and over."""
    return len(set(plain)) < _OWN_MIN or any(
        plain == (plain[:length] * len(plain))[: len(plain)] for length in range(1, _EXTRA_MIN)
    )


class Passwords:
    """Hashes and compares, a bounded number at once; more than `waiting_max` waiting is OVERLOADED."""

    def __init__(self, cost: int, workers: int, waiting_max: int, *, allow_low_cost: bool = False) -> None:
        assert cost >= COST_MIN or allow_low_cost, "a bcrypt cost below 12 is for tests only"
        self._cost, self._waiting_max, self._waiting = cost, waiting_max, 0
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="bcrypt")
        self._nobody = _nobodys_hash(cost)

    async def hash(self, password: str) -> bytes:
        return await self._run(partial(_hash, _digest(password), self._cost))

    async def matches(self, password: str, password_hash: bytes | None) -> bool:
        """Whether this is the password; None (no such account), or an account without one, takes as long: False."""
        compared = password_hash or self._nobody
        same = await self._run(partial(bcrypt.checkpw, _digest(password), compared))
        return same and bool(password_hash)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], _T]) -> _T:
        if self._waiting >= self._waiting_max:
            raise Problem(Fault.OVERLOADED, "too many logins at once; nothing happened")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def _hash(digest: bytes, cost: int) -> bytes:
    return bcrypt.hashpw(digest, bcrypt.gensalt(cost))


def _nobodys_hash(cost: int) -> bytes:
    """What is compared with where there is no such account, so that the answer takes as long. Chance, not a hash: only
    the comparison costs, and it begins with the salt and the cost."""
    return bcrypt.gensalt(cost) + "".join(secrets.choice(_BCRYPT64) for _ in range(_HASH_CHARACTERS)).encode()


def _digest(password: str) -> bytes:
    normal = unicodedata.normalize("NFC", password)  # keyboards differ in how they compose accents
    return base64.b64encode(hashlib.sha256(normal.encode("utf-8", "surrogatepass")).digest())
