"""The exchange in one process that the tests of actors have."""

from tests.integration.actors.conftest import exchange

__all__ = ["exchange"]
