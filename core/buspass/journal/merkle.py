"""RFC 9162's Merkle tree hash over a list of leaves; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def root(leaves: Sequence[bytes]) -> str:
    """Give the root as hex. Leaves and nodes are hashed apart (RFC 9162 §2.1.1): neither passes for the other."""
    return _hash(leaves).hex()


def _hash(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + _hash(leaves[:split]) + _hash(leaves[split:])).digest()
