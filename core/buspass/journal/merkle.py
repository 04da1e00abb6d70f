"""RFC 9162's Merkle tree hash over a list of leaves; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def root(leaves: Sequence[bytes]) -> str:
    """Give the root as hex. Leaves and nodes are hashed apart (RFC 9162 §2.1.1): neither passes for the other."""
    return root_over([leaf(each) for each in leaves])


def leaf(data: bytes) -> bytes:
    """Give a leaf's hash, for who keeps that and not the data."""
    return hashlib.sha256(b"\x00" + data).digest()


def root_over(leaves: Sequence[bytes]) -> str:
    """Give the root as hex over leaves that are hashed already.

    Level by level from below, a node left over waiting for its turn: so the left half of each tree is the largest full
    one, as where it is split from above.
    """
    sha256 = hashlib.sha256
    level = [*leaves] or [sha256().digest()]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        above = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        level = above if len(level) % 2 == 0 else [*above, level[-1]]
    return level[0].hex()
