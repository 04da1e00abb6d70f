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
    """Give the root as hex over leaves that are hashed already."""
    return _hash(leaves).hex()


def _hash(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + _hash(leaves[:split]) + _hash(leaves[split:])).digest()
