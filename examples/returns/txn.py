"""How a service judges a `Txn-Token`: the proof of on whose behalf, in which task, and for which call it is asked.

Owns the checks of draft-ietf-oauth-transaction-tokens as the gateway uses it. Refuses to know what the service does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import jwt

LIFETIME = 60
"""Seconds that a token may be valid at most."""
SKEW = 5
"""Seconds by which two clocks may differ."""


class Refused(Exception):  # noqa: N818 - what a service does with a request
    """An answer with an error status and JSON."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class TxnVerifier:
    """Verifies tokens of one trust domain. `fetch` reads its key set (default: over HTTP from the issuer)."""

    def __init__(
        self,
        issuer: str,
        *,
        fetch: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.time,
        reread: float = 1,
    ) -> None:
        self.issuer, self.clock, self.reread = issuer, clock, reread
        self._fetch = fetch or self._over_http
        self._keys: dict[str, jwt.PyJWK] = {}
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._used: dict[str, float] = {}

    async def verify(
        self,
        token: str | None,
        *,
        audience: str,
        tool: str,
        method: str,
        arguments: Mapping[str, Any],
        seen: dict[str, Any],
    ) -> dict[str, Any]:
        """The claims of a token that allows exactly this call, now, once. Raises `Refused` with 401 or 403.

        `seen` gets the `txn` and `jti` of a token with a good signature, also when it is refused after that.
        """
        claims = await self._signed(token)
        seen |= {"txn": claims["txn"], "jti": claims["jti"]}
        if claims["exp"] - claims["iat"] > LIFETIME:
            raise Refused(401, "invalid_token", "the Txn-Token lives too long")
        wanted = {"audience": audience, "tool": tool, "method": method, "arguments": dict(arguments)}
        context = claims["tctx"] if isinstance(claims["tctx"], dict) else {}
        for name, value in wanted.items():
            if context.get(name) != value:
                raise Refused(403, "wrong_context", f"the Txn-Token is for another {name}")
        self._once(claims["jti"], claims["exp"])
        return claims

    async def _signed(self, token: str | None) -> dict[str, Any]:
        if not token:
            raise Refused(401, "no_token", "a Txn-Token is missing")
        try:
            header = jwt.get_unverified_header(token)
            key = await self._key(str(header.get("kid")))
            if header.get("typ") != "txntoken+jwt":
                raise Refused(401, "invalid_token", "this is no Txn-Token")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=["ES256"],
                audience=self.issuer,
                issuer=self.issuer,
                leeway=SKEW,
                options={"require": ["iss", "aud", "iat", "exp", "jti", "txn", "sub", "tctx"]},
            )
        except jwt.InvalidTokenError as error:
            raise Refused(401, "invalid_token", f"the Txn-Token is not valid: {error}") from None
        return claims

    async def _key(self, kid: str) -> jwt.PyJWK:
        """The key of that name; the set is read again for an unknown one, but not at every forger's pace."""
        async with self._reading:  # who comes while the keys are being read waits for them
            if kid not in self._keys and self.clock() - self._read_at >= self.reread:
                self._read_at = self.clock()
                try:
                    found = await self._fetch()
                except httpx.HTTPError as error:
                    raise Refused(503, "keys_unavailable", f"the issuer's keys cannot be read: {error}") from None
                self._keys = {key["kid"]: jwt.PyJWK(key, algorithm="ES256") for key in found["keys"]}
        if kid not in self._keys:
            raise Refused(401, "unknown_key", "the Txn-Token is signed by nobody this service knows")
        return self._keys[kid]

    async def _over_http(self) -> Any:
        async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
            answer = await http.get(f"{self.issuer}/.well-known/jwks.json")
            return answer.raise_for_status().json()

    def _once(self, jti: str, expires: float) -> None:
        now = self.clock()
        self._used = {used: until for used, until in self._used.items() if until + SKEW > now}
        if jti in self._used:
            raise Refused(401, "replayed", "this Txn-Token was used before")
        self._used[jti] = expires
