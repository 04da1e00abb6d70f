"""The text of a key, `bp_ID_SECRET`: what is shown once, and what of it is kept.

Owns its shape and its digest. The digest is a plain SHA-256: the secret is 32 random bytes, so there is nothing to
guess that a slow, salted hash would protect, and every call checks one. Refuses to know what a key may do.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from msgspec import Struct

from buspass.errors import Problem
from buspass.identity.jws import encoded
from buspass.ports.clock import Clock

PREFIX: Final = "bp_"
_SHAPE: Final = r"bp_([a-z2-7]{16})_([A-Za-z0-9_-]{43})"


class Shown(Struct, frozen=True, kw_only=True):
    """A key's text as its holder sends it, the id it names (`k_…`) and the digest (hex SHA-256 of its secret)."""

    text: str
    id: str
    digest: str

    def __repr__(self) -> str:
        return f"Shown({self.id}, …)"


def mint(clock: Clock, key: str | None = None) -> Shown:
    """Make a secret, for a new id or for the key of that id."""
    name = key.removeprefix("k_") if key else base64.b32encode(clock.random(10)).decode().lower()
    secret = encoded(clock.random(32))
    return Shown(text=f"{PREFIX}{name}_{secret}", id=f"k_{name}", digest=_digest(secret))


def read(text: str) -> Shown:
    """Read what a client sent. Raises Problem unauthenticated."""
    if (found := re.fullmatch(_SHAPE, text)) is None:
        raise Problem(
            "unauthenticated", "this is no whole key: one is bp_, 16 characters, _ and 43 more; copy all of it"
        )
    return Shown(text=text, id=f"k_{found[1]}", digest=_digest(found[2]))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
