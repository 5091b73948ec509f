"""A login to no account costs what a login to one costs, and never succeeds.

Seen to fail: a decoy of the least cost, and one that is empty (bcrypt refuses it at once).
"""

from collections.abc import Iterator

import bcrypt
import pytest

from gateway.auth.passwords import Passwords

COST = 5


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    made = Passwords(COST, workers=1, waiting_max=2, allow_low_cost=True)
    yield made
    made.close()


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The hashes that bcrypt was given to compare with."""
    seen: list[bytes] = []
    compare = bcrypt.checkpw

    def noting(password: bytes, hashed: bytes) -> bool:
        seen.append(hashed)
        return compare(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", noting)
    return seen


@pytest.mark.parametrize("stored", [None, b""], ids=["no account", "an account without a password"])
async def test_nobody_is_compared_like_somebody(
    passwords: Passwords, compared: list[bytes], stored: bytes | None
) -> None:
    mine = await passwords.hash("sunny side up")
    assert await passwords.matches("sunny side up", mine)
    assert not await passwords.matches("sunny side up", stored)
    real, decoy = compared
    assert decoy[:7] == real[:7] == b"$2b$05$"  # the algorithm and its cost
    assert len(decoy) == len(real)


async def test_nobody_differs_from_process_to_process(compared: list[bytes]) -> None:
    for _ in range(2):
        own = Passwords(COST, workers=1, waiting_max=1, allow_low_cost=True)
        assert not await own.matches("sunny side up", None)
        own.close()
    assert len(set(compared)) == 2
