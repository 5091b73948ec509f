"""The permission table as Markdown, and where it stands in docs/security.md.

python -m gateway.permission_page docs/security.md      writes it anew; a test says when that is due
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from gateway.permissions import ADMIN, AMI, CHANNELS, FACULTY, OPERATIONS, ROLES, ROUTES, STUDENT, Permission

BEGIN: Final = "<!-- written by python -m gateway.permission_page -->\n"
END: Final = "<!-- until here -->\n"
_ORDER: Final = (STUDENT, FACULTY, ADMIN, AMI)


def permission_table() -> str:
    """Routes, then the operations and channels of the WebSocket, in the order of the code."""
    return "\n".join(_lines()) + "\n"


def with_table(page: str) -> str:
    """The page with the table of today between its two marks. Raises ValueError when it lacks them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the table: {BEGIN}...{END}")
    return f"{before}{BEGIN}\n{permission_table()}\n{END}{after}"


def _lines() -> Iterator[str]:
    routes = [
        (
            f"`{method} {path}`",
            _who(permission.roles),
            _key(permission),
            permission.limit if permission.checked else "none",
        )
        for (method, path), permission in ROUTES.items()
    ]
    yield from _table(("route", "who", "with an API key", "limit"), routes)
    for what, table in (("operation", OPERATIONS), ("channel", CHANNELS)):
        rows = [(f"`{name}`", _who(permission.roles), _key(permission)) for name, permission in table.items()]
        yield ""
        yield from _table((f"{what} of the WebSocket", "who", "with an API key"), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _key(permission: Permission) -> str:
    """The scope that a key needs; anyone needs none, and some things take a login."""
    return permission.scope or ("yes" if not permission.roles else "no")


def _who(roles: frozenset[str]) -> str:
    if not roles:
        return "anyone"
    return "every role" if roles == ROLES else ", ".join(role for role in _ORDER if role in roles)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text("utf-8")), "utf-8")
