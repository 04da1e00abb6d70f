"""Txn-Tokens: what the gateway shows to the service behind a tool (draft-ietf-oauth-transaction-tokens).

Owns their claims. Refuses to know who reads them: a service verifies with /.well-known/jwks.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from buspass.identity.jws import encoded
from buspass.identity.tokens import signed
from buspass.model import Principal, Subject
from buspass.ports.clock import Clock
from buspass.ports.signer import Signer

TYP: Final = "txntoken+jwt"
LIFETIME: Final = 60
"""Seconds. A service refuses a `jti` that it has seen within them."""
SCOPE: Final = "tools"


class TxnToken(Struct, frozen=True, kw_only=True):
    """The token for one dispatch, and its `jti` for the journal."""

    token: str
    jti: str


class TxnTokens:
    """Mints the Txn-Tokens of one trust domain, whose name is `issuer`."""

    def __init__(self, issuer: str, signer: Signer, clock: Clock) -> None:
        self._issuer = issuer
        self._signer = signer
        self._clock = clock

    async def mint(
        self,
        *,
        task: str,
        subject: Subject | None,
        principal: Principal,
        audience: str,
        tool: str,
        method: str,
        arguments: Mapping[str, Any],
        host: str,
    ) -> TxnToken:
        """Make a token for one call of one tool with exactly these arguments.

        `audience` is the service's, `host` this host's name. An agent that acts for itself has the proof
        `workload`. Raises Problem `identity_unavailable` where nothing can be signed.
        """
        now = self._clock.now() // 1000
        jti = encoded(self._clock.random(16))
        claims = {
            "iss": self._issuer,
            "aud": self._issuer,
            "iat": now,
            "exp": now + LIFETIME,
            "jti": jti,
            "txn": task,
            "sub": subject.name if subject else principal.name,
            "act": {"sub": principal.name},
            "scope": SCOPE,
            "req_wl": host,
            "tctx": {"audience": audience, "tool": tool, "method": method, "arguments": dict(arguments)},
            "rctx": {"identity": principal.identity, "proof": subject.proof if subject else "workload"},
        }
        return TxnToken(token=await signed(self._signer, TYP, claims), jti=jti)
