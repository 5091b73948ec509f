"""People of the shared installation, and a quiet market."""

from collections.abc import Iterator

import pytest

from tests.e2e.chain import Chain
from tests.e2e.sockets import Socket
from tests.support.installation import Installation, Person, installation

__all__ = ["installation"]

PLENTY = {"THB": "1000000", "energy_Z1": "100000"}


@pytest.fixture
def chain(installation: Installation) -> Chain:
    return Chain(installation)


@pytest.fixture(scope="session")
def admin(installation: Installation) -> Person:
    return installation.admin()


@pytest.fixture(scope="session")
def rich_seller(installation: Installation) -> Person:
    return installation.person().register(**PLENTY)


@pytest.fixture(scope="session")
def rich_buyer(installation: Installation) -> Person:
    return installation.person().register(**PLENTY)


@pytest.fixture
def quiet(admin: Person) -> None:
    """Nobody's order rests in the markets that every installation has."""
    for symbol in ("CAMPUS", "RIVERSIDE"):
        admin.call("POST", f"/markets/{symbol}/cancel-all")


@pytest.fixture
def seller(rich_seller: Person, quiet: None) -> Person:
    return rich_seller


@pytest.fixture
def buyer(rich_buyer: Person, quiet: None) -> Person:
    return rich_buyer


@pytest.fixture
def sockets(installation: Installation) -> Iterator[list[Socket]]:
    """Sockets to be closed after the test."""
    opened: list[Socket] = []
    yield opened
    for one in opened:
        one.close()
