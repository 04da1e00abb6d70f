"""Signed tokens as bytes: compact JWS (RFC 7515) with a JSON object inside, read strictly, signed by a port.

Owns the form of a token, its signature and its times. Refuses to know what a claim means and whose key is trusted.

A key checks signatures; the form is checked here, because a token must mean one thing to everybody who reads it: no
duplicate names, no NaN, no `crit`, no unencoded payload, no characters that a lenient base64 decoder would skip.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from buspass.ports.clock import Clock
from buspass.ports.signer import Signer

if TYPE_CHECKING:
    from buspass.identity.proving import PublicKey

LONGEST: Final = 16_384
"""Bytes of a token: what every proxy lets through in a header."""
SKEW: Final = 5
"""Seconds by which two hosts' clocks may differ."""

_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_LATEST: Final = 2**53


class Untrusted(Exception):  # noqa: N818  (it says what the token is)
    """The token's form, signature or time is not acceptable; the text says why, for the one who sent it."""


class Expired(Untrusted):
    """Everything is right but the time."""


class Unverified(Struct, frozen=True, kw_only=True):
    """What a token says of itself. Nothing of it is proven: good for choosing a key, and for a helpful refusal."""

    text: str
    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    def says(self, name: str) -> str:
        """A claim that is a string, made harmless to be shown; else ''."""
        return shown(self.claims.get(name))

    @property
    def typ(self) -> str:
        return shown(self.header.get("typ"))

    @property
    def algorithm(self) -> str:
        return shown(self.header.get("alg"))

    @property
    def kid(self) -> str:
        kid = self.header.get("kid")
        return kid if isinstance(kid, str) else ""


def shown(text: object) -> str:
    """At most 200 printable characters of a stranger's string; '' for anything else."""
    return "".join(c if c.isprintable() else "�" for c in text[:200]) if isinstance(text, str) else ""


def read(token: str) -> Unverified:
    """Take a token apart. Raises Untrusted unless it is a compact JWS of two JSON objects, 16 KB at most."""
    if len(token) > LONGEST:
        raise Untrusted(f"the token is longer than {LONGEST} bytes")
    if not _COMPACT.fullmatch(token):
        raise Untrusted("this is not a JWT (three base64url parts, joined by dots)")
    head, body, _ = token.split(".")
    header, claims = _object(head, "header"), _object(body, "payload")
    for name in ("crit", "b64"):
        if name in header:
            raise Untrusted(f"the token's header has {name!r}, which is not understood here")
    return Unverified(text=token, header=header, claims=claims)


def check_signature(token: Unverified, key: PublicKey, algorithms: Sequence[str]) -> None:
    """Raise Untrusted unless `key` signed the token with the key's own algorithm, and that is one of these."""
    signing, _, signature = token.text.rpartition(".")
    named = token.header.get("alg") == key.algorithm and isinstance(token.header.get("kid", ""), str)
    try:
        proven = named and key.algorithm in algorithms and key.proves(signing.encode(), decoded(signature))
    except ValueError:
        proven = False
    if not proven:
        raise Untrusted("the token's signature is wrong")


def check_times(token: Unverified, clock: Clock, *, required: Sequence[str] = ("exp",)) -> None:
    """Raise Expired or Untrusted unless now lies between `nbf`/`iat` and `exp`, allowing SKEW (RFC 7519 §4.1)."""
    times = {name: _seconds(token, name, required=name in required) for name in ("exp", "nbf", "iat")}
    now = clock.now() / 1000
    exp, nbf, iat = times["exp"], times["nbf"], times["iat"]
    if exp is not None and now >= exp + SKEW:
        raise Expired(f"the token expired {now - exp:.0f} s ago")
    if nbf is not None and nbf > now + SKEW:
        raise Untrusted(f"the token is not valid for another {nbf - now:.0f} s (nbf)")
    if iat is not None and iat > now + SKEW:
        raise Untrusted(f"the token was issued {iat - now:.0f} s in the future (iat): check both clocks")


async def sign(signer: Signer, typ: str, claims: Mapping[str, Any]) -> str:
    """Make a token of these claims. Raises SignerUnavailable."""
    header = {"alg": signer.algorithm, "kid": signer.jwk["kid"], "typ": typ}
    signing = f"{_part(header)}.{_part(claims)}"
    return f"{signing}.{encoded(await signer.sign(signing.encode()))}"


def encoded(data: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Undo `encoded`. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError("not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _part(members: Mapping[str, Any]) -> str:
    text = json.dumps(members, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return encoded(text.encode())


def _object(part: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(decoded(part), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Untrusted(f"the token's {what} is not JSON") from None
    if not isinstance(found, dict):
        raise Untrusted(f"the token's {what} is not a JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _seconds(token: Unverified, name: str, *, required: bool) -> float | None:
    value = token.claims.get(name)
    if value is None and not required:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        raise Untrusted(f"the token's {name} is missing or no number of seconds")
    return value
