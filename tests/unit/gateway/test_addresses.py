"""Whose word is taken for where a request comes from.

Seen to fail for: the leftmost hop taken for the client, headers believed from everybody, IPv6 counted by single
address.
"""

import pytest

from gateway.addresses import Proxies, subscriber_of
from gateway.settings import Limit
from tests.unit.gateway.conftest import World

PROXIES = Proxies(["10.0.0.0/8", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # nobody's proxy
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),  # the first is the client's own invention
        ("10.0.0.1", ["6.6.6.6", "203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7, 10.9.9.9, 10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),  # all are ours
        ("10.0.0.1", ["203.0.113.7, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7, , 10.0.0.2"], "10.0.0.2"),
        ("::ffff:10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("10.0.0.1", ["2001:db8::7%eth0"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7:443"], "10.0.0.1"),
        ("", ["203.0.113.7"], ""),
    ],
)
def test_the_last_hop_that_is_no_trusted_proxy_is_the_client(peer: str, forwarded: list[str], client: str) -> None:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]

    assert PROXIES.client(peer, headers) == client


def test_a_list_without_end_is_read_from_its_end_only() -> None:
    invented = ", ".join(["10.0.0.1"] * 5_000)

    assert PROXIES.client("10.0.0.1", [(b"x-forwarded-for", f"203.0.113.7, {invented}".encode())]) == "10.0.0.1"


def test_limits_count_an_ipv6_subscriber_not_his_addresses() -> None:
    assert subscriber_of("2001:db8:0:1::5") == subscriber_of("2001:db8:0:1:ffff::9") == "2001:db8:0:1::/64"
    assert subscriber_of("2001:db8:0:2::5") != subscriber_of("2001:db8:0:1::5")
    assert subscriber_of("::ffff:192.0.2.1") == subscriber_of("192.0.2.1") == "192.0.2.1"
    assert subscriber_of("not an address") == "not an address"


async def test_limits_count_by_the_client_that_a_trusted_proxy_names(world: World) -> None:
    world.build(trusted_proxies=("127.0.0.0/8",), requests_limit=Limit(0.001, 1))

    async def ask(forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return (await world.client.get("/api/v1/markets", headers=headers)).status_code

    assert [await ask("203.0.113.1"), await ask("203.0.113.2"), await ask("203.0.113.1")] == [200, 200, 429]
    assert await ask("9.9.9.9, 203.0.113.2") == 429
