"""The key that the hosts of a trust domain share, and the keys derived from it.

Owns its reading and the labels of what is derived (HKDF-SHA256, RFC 5869). Refuses to know where the key is
kept and what a derived key is used for.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from buspass.errors import ConfigError

LABELS: Final = frozenset({"journal-mac", "task-key-wrap", "placeholder", "jwk-mac"})
"""One label a purpose: a key leaked from one says nothing of another."""
LENGTH: Final = 32

_SALT: Final = b"buspass domain key 1"
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{43}=?")


class DomainKey:
    """32 random bytes, the same on every host of the domain. Never shown: its text is `DomainKey(…)`."""

    __slots__ = ("_derived", "_secret")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != LENGTH:
            raise ConfigError([f"domain_key: {len(secret)} bytes; {_WANTED}"])
        self._secret = secret
        self._derived: dict[str, bytes] = {}

    @classmethod
    def from_text(cls, text: str) -> DomainKey:
        """Read 32 bytes written as hex, base64 or base64url; space around it is ignored.

        Raises ConfigError, which says what is wrong and never the value.
        """
        text = text.strip()
        if _HEX.fullmatch(text):
            return cls(bytes.fromhex(text))
        if not _BASE64.fullmatch(text):
            raise ConfigError([f"domain_key: {_complaint(text)}; {_WANTED}"])
        plain = text.rstrip("=").replace("+", "-").replace("/", "_") + "="
        try:
            secret = base64.urlsafe_b64decode(plain)
        except binascii.Error:
            raise ConfigError([f"domain_key: this is not base64; {_WANTED}"]) from None
        return cls(secret)

    def derive(self, label: str) -> bytes:
        """Give the domain's 32-byte key for one of LABELS. Raises ValueError for another label."""
        if label not in LABELS:
            raise ValueError(f"label {label!r}: allowed are {', '.join(sorted(LABELS))}")
        if label not in self._derived:
            hkdf = HKDF(algorithm=SHA256(), length=LENGTH, salt=_SALT, info=label.encode())
            self._derived[label] = hkdf.derive(self._secret)
        return self._derived[label]

    def __repr__(self) -> str:
        return "DomainKey(…)"


_WANTED: Final = "wanted are 32 random bytes as hex, base64 or base64url: `openssl rand -base64 32` makes them"


def _complaint(text: str) -> str:
    if not text:
        return "it is empty"
    if re.fullmatch(r"[0-9a-fA-F]+", text):
        return f"{len(text)} hexadecimal digits"
    if re.fullmatch(r"[A-Za-z0-9+/_=-]+", text):
        return f"{len(text)} characters of base64"
    return f"{len(text)} characters that are neither hex nor base64"
