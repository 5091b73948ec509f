"""Where a request comes from: the connection's other end, or, behind proxies that are trusted, the one they name.

Rule: whoever is not named in the settings cannot choose the address that limits count by and the audit log keeps.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_FORWARDED: Final = b"x-forwarded-for"
_HOPS_MAX: Final = 32
_PREFIX_BITS: Final = 64  # what one subscriber has of IPv6: to count single addresses would be to count nothing


class Proxies:
    """Networks whose `X-Forwarded-For` is believed."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Raises ValueError for what is neither an address nor a network."""
        self._networks = tuple(ip_network(network) for network in networks)

    def trusts(self, host: str) -> bool:
        address = _parsed(host)
        return address is not None and any(address in network for network in self._networks)

    def client(self, host: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The address of the client, when the connection's other end is `host`.

        Each proxy appends whom it heard, so the list is read from its end: the first hop that is no trusted proxy is
        the client, and what stands before it is his own invention. A hop that is no address ends the search at the
        proxy that passed it on.
        """
        if not self._networks or not self.trusts(host):
            return host
        found = host
        hops = b",".join(value for name, value in headers if name == _FORWARDED).decode("latin-1").split(",")
        for hop in reversed(hops[-_HOPS_MAX:]):
            address = _parsed(hop.strip())
            if address is None:
                break
            found = str(address)
            if not self.trusts(found):
                break
        return found


@lru_cache(maxsize=4_096)
def subscriber_of(host: str) -> str:
    """What limits by address count: an IPv4 address, or the /64 of an IPv6 one."""
    address = _parsed(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _PREFIX_BITS), strict=False))
    return host if address is None else str(address)


def _parsed(text: str) -> Address | None:
    """None: is no address. An IPv4 address in IPv6's clothes is the IPv4 address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:  # a name of the sender's own choice
            return None
        return address.ipv4_mapped or address
    return address
