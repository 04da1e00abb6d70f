"""Peers: what two trust domains prove to each other, each by its own keys. They share no key and no store.

Owns three kinds of token, which only the domain they are meant for takes, and only as that kind: a *grant* (RFC 7523,
draft-ietf-oauth-identity-chaining) asks for a child, an *order* says what its parent wants of it, a *statement* how it
stands. Refuses to know what follows from one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from buspass.config.settings import Peer
from buspass.errors import Problem
from buspass.identity.issuer_keys import IssuerKeys
from buspass.identity.jws import Untrusted, Unverified, check_signature, check_times, encoded, read
from buspass.identity.tokens import signed
from buspass.ports.clock import Clock
from buspass.ports.outbound import Outbound
from buspass.ports.signer import Signer

type Kind = Literal["buspass-grant+jwt", "buspass-order+jwt", "buspass-statement+jwt"]

GRANT: Final = "buspass-grant+jwt"
ORDER: Final = "buspass-order+jwt"
STATEMENT: Final = "buspass-statement+jwt"
ALGORITHMS: Final = ("ES256", "RS256")
LIFETIME: Final = 60
"""Seconds that one is good for: it is signed anew each time it is sent."""
REST: Final = 10.0
"""Seconds that a peer is left alone which did not answer."""
LONGEST: Final = 300
"""Seconds that one may claim to be good for."""
BURIALS: Final = 600
"""Children never born that a peer may have buried here at once: a domain that comes back has some to clear up."""
_TASK: Final = r"t_[a-z2-7]{40}"


class PeerTokens:
    """Signs for and believes the peers of one trust domain, whose name is `issuer`. `peers` by name.

    Their keys come from their issuer's own documents, as an identity provider's do: without them nothing is believed.
    """

    def __init__(
        self, issuer: str, peers: Mapping[str, Peer], signer: Signer, discovery: Outbound, clock: Clock
    ) -> None:
        self._issuer = issuer
        self._peers = peers
        self._signer = signer
        self._clock = clock
        self._away: dict[str, float] = {}
        self._burials: dict[str, tuple[float, float]] = {}
        self._issuers = {peer.issuer: (peer, IssuerKeys(peer.issuer, discovery, clock)) for peer in peers.values()}

    def named(self, name: str) -> Peer:
        """Give a peer. Raises Problem denied."""
        if (peer := self._peers.get(name)) is None:
            raise Problem("denied", f"there is no peer {name[:64]!r} here (any more)", reasons=["peer"])
        return peer

    def rests(self, name: str) -> bool:
        """Say whether a peer is left alone for a while, as it did not answer: nobody waits for it again and again."""
        return self._clock.monotonic() < self._away.get(name, float("-inf"))

    def away(self, name: str) -> None:
        """Leave a peer alone for a while."""
        self._away[name] = self._clock.monotonic() + REST

    def buries(self, name: str) -> bool:
        """Take leave to bury one child that a peer says was never born; False where it asks for too many of them.

        Each leaves an item for good: this host writes BURIALS of them at once, and then one a second.
        """
        now = self._clock.monotonic()
        left, at = self._burials.get(name, (BURIALS, now))
        left = min(BURIALS, left + now - at)
        if left < 1:
            return False
        self._burials[name] = left - 1, now
        return True

    async def sign(self, peer: Peer, kind: Kind, txn: str, ours: Mapping[str, Any], **claims: Any) -> str:
        """Make a token for that peer alone: `txn` is the parent's task, `ours` what Buspass itself has to say.

        Raises Problem identity_unavailable.
        """
        now = self._clock.now() // 1000
        whole = {
            "iss": self._issuer,
            "aud": peer.issuer,
            "iat": now,
            "exp": now + LIFETIME,
            "jti": encoded(self._clock.random(16)),
            "txn": txn,
            **claims,
            "buspass": ours,
        }
        return await signed(self._signer, kind, whole)

    async def prove(self, token: str, kind: Kind) -> tuple[Peer, Mapping[str, Any]]:
        """Give the peer that made this token for this domain, now, and what it says.

        Raises Problem unauthenticated, identity_unavailable where the peer's keys can't be had.
        """
        try:
            given = read(token)
            peer, keys = self._meant(given, kind)
            key = await keys.key(given.kid)
            _check(key is not None, f"signed with a key that {peer.issuer} does not publish")
            assert key is not None
            check_signature(given, key, ALGORITHMS)
            check_times(given, self._clock, required=("exp", "iat"))
            _check(given.claims["exp"] - given.claims["iat"] <= LONGEST, f"good for longer than {LONGEST} s")
        except Untrusted as error:
            raise Problem("unauthenticated", f"{kind}: {error}") from None
        return peer, given.claims

    def _meant(self, given: Unverified, kind: Kind) -> tuple[Peer, IssuerKeys]:
        """Choose whose keys prove it. Nothing of it is proven yet, but it is nobody else's affair to fetch keys for."""
        if given.typ.lower().removeprefix("application/") != kind:
            raise Untrusted(f"typ {given.typ!r} is another kind of token")
        if given.algorithm not in ALGORITHMS:
            raise Untrusted(f"alg {given.algorithm!r} is not accepted; {', '.join(ALGORITHMS)} are")
        issuer = given.claims.get("iss")
        if not isinstance(issuer, str) or (found := self._issuers.get(issuer)) is None:
            raise Untrusted(f"issuer {given.says('iss')!r} is no peer of this trust domain")
        if given.claims.get("aud") != self._issuer:
            raise Untrusted(f"it is for another audience (aud); wanted: {self._issuer}")
        return found


def child_id(issuer: str, parent: str, key: str) -> str:
    """Give the id of a peer's child: within its parent's domain's own part of the ids, and for one key always the same.

    Ids of this domain's own tasks are shorter, so none is ever both.
    """
    return _part(issuer) + _encoded(f"{parent}\x00{key}", 15)


def is_child_of(issuer: str, task: str) -> bool:
    """Say whether a task's id lies in the part of that issuer."""
    return bool(re.fullmatch(_TASK, task)) and task.startswith(_part(issuer))


def _part(issuer: str) -> str:
    return "t_" + _encoded(issuer, 10)


def _encoded(text: str, length: int) -> str:
    return base64.b32encode(hashlib.sha256(text.encode()).digest()[:length]).decode().lower()


def _check(right: bool, otherwise: str) -> None:
    if not right:
        raise Untrusted(otherwise)
