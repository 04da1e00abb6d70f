"""The keys of a foreign OIDC issuer: discovery, its key set, how long both are believed.

Owns what is fetched (OpenID Connect Discovery 1.0 §4, RFC 7517), from where it may come, and when again. Refuses to
know what a token of that issuer means.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from buspass.errors import Problem
from buspass.identity.cached import Cached
from buspass.identity.proving import PublicKey, public_key
from buspass.ports.clock import Clock
from buspass.ports.outbound import Ambiguous, NotSent, Outbound, Request

TIMEOUT: Final = 5.0
LARGEST: Final = 262_144
LIFETIME: Final = 3600.0
"""Seconds, where the issuer's Cache-Control says nothing; what it says counts within SHORTEST and LONGEST."""
SHORTEST: Final = 300.0
LONGEST: Final = 86_400.0

_MAX_AGE: Final = r"(?i)(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})"
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_ALGORITHMS: Final = {"RSA": "RS256", "EC": "ES256"}

type Keys = Mapping[str, PublicKey]


class IssuerKeys:
    """One issuer's signing keys by `kid`, fetched when first needed and shared by all who wait.

    An unknown `kid` has them fetched again, at most every 10 s: that is how a rotation is noticed. Past their
    lifetime they prove nothing, also while the issuer is out of reach.
    """

    def __init__(self, issuer: str, outbound: Outbound, clock: Clock) -> None:
        self._issuer = issuer
        self._outbound = outbound
        self._keys = Cached(self._read, clock)

    async def key(self, kid: str) -> PublicKey | None:
        """The key of that name. Raises Problem `identity_unavailable` where the issuer can't be asked."""
        keys = await self._keys.get()
        if kid not in keys:
            keys = await self._keys.again(keys)
        return keys.get(kid)

    async def all(self) -> Keys:
        """Every key that may prove something now. Raises Problem `identity_unavailable`."""
        return await self._keys.get()

    async def _read(self) -> tuple[Keys, float]:
        document, _ = await self._fetch(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if document.get("issuer") != self._issuer:
            raise self._unavailable("its discovery document names another issuer than buspass.yaml does")
        uri = document.get("jwks_uri")
        if not isinstance(uri, str) or not self._permitted(uri):
            raise self._unavailable("its jwks_uri is missing or neither https nor at the issuer's own host")
        found, lifetime = await self._fetch(uri)
        return _usable(found.get("keys")), lifetime

    async def _fetch(self, url: str) -> tuple[Mapping[str, Any], float]:
        request = Request(method="GET", url=url, headers={"accept": "application/json"}, timeout=TIMEOUT, limit=LARGEST)
        try:
            response = await self._outbound.send(request)
        except (NotSent, Ambiguous) as error:
            raise self._unavailable(f"{url} can't be read: {error}") from error
        if response.status != 200:
            raise self._unavailable(f"{url} answered {response.status}")
        try:
            document = json.loads(response.body)
        except (ValueError, RecursionError):
            raise self._unavailable(f"{url} answered no JSON") from None
        if not isinstance(document, dict):
            raise self._unavailable(f"{url} answered no JSON object")
        return document, _lifetime(response.headers.get("cache-control", ""))

    def _permitted(self, uri: str) -> bool:
        """Keys come over TLS; those of an issuer that the file itself allows plain HTTP, also from its own host."""
        try:
            url, own = urlsplit(uri), urlsplit(self._issuer)
        except ValueError:
            return False
        if own.scheme == "http" and url.scheme == "http":
            return url.hostname in _LOOPBACK or url.netloc == own.netloc
        return url.scheme == "https" and bool(url.hostname)

    def _unavailable(self, why: str) -> Problem:
        return Problem(
            "identity_unavailable", f"the keys of issuer {self._issuer} can't be had now: {why}", retry_after=2
        )


def _lifetime(cache_control: str) -> float:
    said = re.search(_MAX_AGE, cache_control)
    return min(max(float(said[1]), SHORTEST), LONGEST) if said else LIFETIME


def _usable(keys: object) -> Keys:
    """The RSA and P-256 keys that may verify a signature; every other one is as if it were not there.

    Each is bound to its one algorithm here, whatever a token's header says: a public key is never an HMAC secret.
    """
    usable: dict[str, PublicKey] = {}
    for jwk in keys if isinstance(keys, list) else []:
        if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
            continue
        algorithm = _ALGORITHMS.get(str(jwk.get("kty")))
        if algorithm is None or jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig":
            continue
        with contextlib.suppress(ValueError):
            usable[jwk["kid"]] = public_key(jwk, algorithm)
    return usable
