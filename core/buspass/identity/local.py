"""The local issuer: on a loopback bind without `identity:`, the gateway vouches for workloads itself.

Owns its tokens, which the domain's own keys sign and nothing but the domain accepts. Refuses to know who asks for
one: whoever composes the host decides that it listens on loopback only.
"""

from __future__ import annotations

from typing import Final

from buspass.errors import Problem
from buspass.identity.jws import Untrusted, Unverified, check_signature, check_times, encoded, read
from buspass.identity.keyring import Keyring
from buspass.identity.tokens import signed
from buspass.model import Principal
from buspass.ports.clock import Clock
from buspass.ports.signer import Signer

NAME: Final = "local"
"""The identity's name in principals and in a workflow's `agents`."""
TYP: Final = "JWT"
ALGORITHMS: Final = ("ES256",)
LIFETIME: Final = 3600


class LocalIssuer:
    """Mints and verifies workload tokens with `iss` = ISSUER/local and `aud` = ISSUER, the trust domain's name."""

    def __init__(self, issuer: str, signer: Signer, keyring: Keyring, clock: Clock) -> None:
        self.issuer = f"{issuer}/local"
        self._audience = issuer
        self._signer = signer
        self._keyring = keyring
        self._clock = clock

    async def mint_workload(self, agent: str, *, ttl_s: int = LIFETIME) -> str:
        """Make a workload's token for `agent`, good for `ttl_s`. Raises Problem `identity_unavailable`."""
        now = self._clock.now() // 1000
        claims = {
            "iss": self.issuer,
            "aud": self._audience,
            "sub": agent,
            "iat": now,
            "exp": now + ttl_s,
            "jti": encoded(self._clock.random(16)),
        }
        return await signed(self._signer, TYP, claims)

    async def workload(self, token: str) -> Principal:
        """Who acts. Raises Problem `unauthenticated`, or `state_unavailable` where an unknown key can't be read."""
        try:
            given = read(token)
            await self._prove(given)
        except Untrusted as error:
            raise Problem("unauthenticated", f"{error} (a workload's token of the local issuer)") from None
        return Principal(identity=NAME, issuer=self.issuer, agent=given.claims["sub"], claims={})

    async def _prove(self, given: Unverified) -> None:
        agent = given.claims.get("sub")
        if given.typ != TYP or given.algorithm not in ALGORITHMS or given.claims.get("iss") != self.issuer:
            raise Untrusted("the token's typ, alg or iss is not the local issuer's")
        if (
            given.claims.get("aud") != self._audience
            or not isinstance(agent, str)
            or not (agent and agent.isprintable())
        ):
            raise Untrusted("the token's aud or sub is not what the local issuer writes")
        key = await self._keyring.key(given.kid)
        if key is None:
            raise Untrusted("the token is signed with a key that no host of this trust domain has")
        check_signature(given, key, ALGORITHMS)
        check_times(given, self._clock, required=("exp", "iat"))
