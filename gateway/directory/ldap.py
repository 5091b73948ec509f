"""An LDAP directory as the gateway's port `Directory`: search, then bind.

Each question takes one connection and the same steps, whether the person exists or not. A directory that fails several
times in a row is left alone for a while, so that a dead one costs nobody a time-out.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from msgspec import Struct

from engine.records import DirectoryDown, DirectoryPerson
from gateway.directory import messages
from gateway.directory.connection import Connection, Refused, Server
from gateway.directory.messages import AnyOf, Entry, Equals, Garbled

ROLES: Final = ("admin", "faculty", "student")  # of several, the first counts
AT_ONCE_MAX: Final = 8
WAITING_MAX: Final = 256
FAILURES_MAX: Final = 3  # in a row
PAUSE_SECONDS: Final = 5.0
NAME_CHARACTERS_MAX: Final = 100
# What servers say to a password that is wrong, or right for somebody who may not come in. Anything else is trouble.
_WRONG: Final = frozenset({10, 19, 32, 34, 48, 49, 50, 53})
_DISABLED_BY: Final = ("useraccountcontrol", "nsaccountlock", "pwdaccountlockedtime")
_AD_DISABLED_BIT: Final = 2
_LOCKED_FOR_EVER: Final = b"000001010000Z"
_FAILURES: Final = (OSError, TimeoutError, Garbled, Refused)
_log = structlog.get_logger(__name__)


class LdapOptions(Struct, frozen=True, kw_only=True):
    """groups: distinguished names by role. No student groups: everybody below the base may log in."""

    url: str
    ca_file: str  # PEM; empty: the system's
    bind_dn: str  # empty: searches are anonymous
    bind_password: str
    base_dn: str
    login_attribute: str
    name_attribute: str
    id_attribute: str  # never changes and is never given to somebody else
    groups: dict[str, tuple[str, ...]]
    seconds_max: float  # of one question, all in all

    def __repr__(self) -> str:
        return f"LdapOptions(url={self.url!r})"


class LdapDirectory:
    def __init__(self, options: LdapOptions, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError for a certificate file that cannot be used."""
        self._options, self._server = options, Server.at(options.url)
        self._tls = ssl.create_default_context(cafile=options.ca_file or None)
        self._slots, self._waiting = asyncio.Semaphore(AT_ONCE_MAX), 0
        self._circuit = Circuit(monotonic)
        self._attributes = (
            *(options.name_attribute, options.id_attribute, "mail"),
            *_DISABLED_BY,
        )

    def __repr__(self) -> str:
        return f"LdapDirectory({self._options.url})"

    async def check(self, name: str, password: str | None) -> DirectoryPerson | None:
        """Whom the name and the password belong to; None for every kind of no. Raises DirectoryDown.

        Without a password it takes the same steps, to the same end, for the sake of who watches the time.
        """
        given = _bytes_of(password)
        if not _is_plain(name):
            return None
        async with self._connected() as connection:
            entry = await self._entry(connection, Equals(self._options.login_attribute, name.encode()))
            nobody = f"cn={secrets.token_hex(8)},{self._options.base_dn}"
            person = await self._person(connection, entry, nobody)
            asked = person is not None and entry is not None and given != b""
            dn = entry.dn if asked and entry is not None else nobody
            code = await connection.bind(dn, given if asked else secrets.token_bytes(16))
            if code != messages.SUCCESS and code not in _WRONG:
                raise Refused("bind", code)
        return person if asked and code == messages.SUCCESS else None

    async def find(self, directory_id: bytes) -> DirectoryPerson | None:
        """The person with this identity, if he may still come in. Raises DirectoryDown."""
        async with self._connected() as connection:
            entry = await self._entry(connection, Equals(self._options.id_attribute, directory_id))
            return await self._person(connection, entry, self._options.base_dn)

    async def answers(self) -> None:
        """Returns when the directory lets us search. Raises DirectoryDown."""
        async with self._connected() as connection:
            await self._entry(connection, Equals(self._options.login_attribute, b"nobody"))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """A connection that may search; every failure on it, ours or the body's, is DirectoryDown."""
        if self._waiting >= WAITING_MAX:
            raise DirectoryDown("too many ask at once")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._options.seconds_max), self._slots:
                self._circuit.check()
                async with await Connection.open(self._server, self._tls) as connection:
                    if self._options.bind_dn:
                        code = await connection.bind(self._options.bind_dn, self._options.bind_password.encode())
                        if code != messages.SUCCESS:
                            raise Refused("our own bind", code)
                    yield connection
            self._circuit.worked()
        except _FAILURES as error:
            self._circuit.failed()
            _log.warning("directory.down", error=f"{type(error).__name__}: {error}")
            raise DirectoryDown(type(error).__name__) from error
        finally:
            self._waiting -= 1

    async def _entry(self, connection: Connection, condition: Equals) -> Entry | None:
        """The one entry that fits; of two we would not know which."""
        limits = (2, max(1, int(self._options.seconds_max)))
        size_limit_exceeded = frozenset({4})
        found = await connection.search(
            self._options.base_dn, messages.WHOLE_SUBTREE, condition, self._attributes, limits, size_limit_exceeded
        )
        if len(found) > 1:
            _log.warning("directory.ambiguous", attribute=condition.attribute, dns=[entry.dn for entry in found])
        return found[0] if len(found) == 1 else None

    async def _person(self, connection: Connection, entry: Entry | None, nobody: str) -> DirectoryPerson | None:
        """None for nobody, for an entry that lacks what we need, and for who is disabled or in no group of ours."""
        role = await self._role(connection, entry.dn if entry is not None else nobody)
        if entry is None or role is None or _is_disabled(entry):
            return None
        ids = entry.attributes.get(self._options.id_attribute.lower(), [])
        email = _text(entry, "mail")
        if len(ids) != 1 or not ids[0] or not email:
            _log.warning("directory.entry_unusable", dn=entry.dn, needs=["mail", self._options.id_attribute])
            return None
        name = _text(entry, self._options.name_attribute.lower())[:NAME_CHARACTERS_MAX]
        return DirectoryPerson(ids[0], email, name or email, role)

    async def _role(self, connection: Connection, dn: str) -> str | None:
        """Every group is asked, whatever the one before said."""
        member = AnyOf((Equals("member", dn.encode()), Equals("uniqueMember", dn.encode())))
        roles = set() if self._options.groups.get("student") else {"student"}
        for role, groups in self._options.groups.items():
            for group in groups:
                fine = frozenset({messages.NO_SUCH_OBJECT})
                attributes, limits = (messages.NO_ATTRIBUTES,), (1, max(1, int(self._options.seconds_max)))
                if await connection.search(group, messages.BASE_OBJECT, member, attributes, limits, fine):
                    roles.add(role)
        return next((role for role in ROLES if role in roles), None)


class Circuit:
    """Closed, until several failures in a row; then open for a while; then one may try, and the others wait for him."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic, self._failures, self._open_until = monotonic, 0, 0.0

    def check(self) -> None:
        """Raises DirectoryDown while it is open."""
        if self._failures < FAILURES_MAX:
            return
        now = self._monotonic()
        if now < self._open_until:
            raise DirectoryDown("it did not answer lately")
        self._open_until = now + PAUSE_SECONDS

    def worked(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._open_until = self._monotonic() + PAUSE_SECONDS


def _is_plain(name: str) -> bool:
    """LDAP takes `ann`, `ann ` and `a<soft hyphen>nn` for one name; each would have failed logins to spend."""
    return name.isascii() and name.isprintable() and " " not in name and name != ""


def _bytes_of(password: str | None) -> bytes:
    """Empty for a password that is none: it is never sent."""
    try:
        return (password or "").encode()
    except UnicodeEncodeError:
        return b""


def _is_disabled(entry: Entry) -> bool:
    control, locked, locked_time = (_first(entry, name) for name in _DISABLED_BY)
    return (
        (control.isdigit() and bool(int(control) & _AD_DISABLED_BIT))
        or locked.lower() == b"true"
        or locked_time == _LOCKED_FOR_EVER
    )


def _first(entry: Entry, name: str) -> bytes:
    return next(iter(entry.attributes.get(name, [])), b"")


def _text(entry: Entry, name: str) -> str:
    """The first value as readable text, else an empty one."""
    text = _first(entry, name).decode("utf-8", "replace").strip()
    return text if text.isprintable() else ""
