"""A Merkle tree over SHA-256 as in RFC 6962: whoever has the root can be shown that something is under it.

Leaves and nodes are hashed with different first bytes, so that a node can never be passed off as a leaf. A node without
a sibling goes up as it is and is not doubled, so that no two lists of leaves have the same root.
Source: RFC 6962, section 2.1.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(content: bytes) -> bytes:
    return hashlib.sha256(_LEAF + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


class Tree:
    """Of at least one leaf; `leaves` are hashes of leaves, in their order."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        assert leaves, "a tree has a leaf"
        self._levels = [list(leaves)]
        while len(below := self._levels[-1]) > 1:
            level = [node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)]
            self._levels.append(level + below[len(below) & ~1 :])  # the one without a sibling goes up as it is

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def path(self, index: int) -> list[bytes]:
        """The siblings on the way from this leaf to the root, lowest first."""
        found = []
        for level in self._levels[:-1]:
            if (index ^ 1) < len(level):
                found.append(level[index ^ 1])
            index //= 2
        return found


def root_of(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes | None:
    """The root of the tree of `count` leaves with this one at `index`; None when the path does not fit such a tree."""
    if not 0 <= index < count:
        return None
    found, siblings = leaf, iter(path)
    while count > 1:
        if (index ^ 1) < count:
            sibling = next(siblings, None)
            if sibling is None:
                return None
            found = node_hash(sibling, found) if index & 1 else node_hash(found, sibling)
        index, count = index // 2, (count + 1) // 2
    return found if next(siblings, None) is None else None
