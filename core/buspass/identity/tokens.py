"""Task tokens: the signed JWT that an agent uses as its API key, bound to one task (JWT profile of RFC 9068).

Owns what a task token says, that a host of the domain signed it, and what to tell whoever sent something else.
Refuses to know whether the task is still open: every hold asks the task itself.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from buspass.errors import Problem
from buspass.identity import mistaken
from buspass.identity.jws import (
    SKEW,
    Expired,
    Untrusted,
    Unverified,
    check_signature,
    check_times,
    encoded,
    read,
    sign,
)
from buspass.identity.keyring import Keyring
from buspass.model import Principal, Subject
from buspass.ports.clock import Clock
from buspass.ports.signer import Signer, SignerUnavailable

TYP: Final = "at+jwt"
ALGORITHMS: Final = ("ES256",)
SCOPE: Final = "models tools"
_KEPT: Final = 4096


class Minted(Struct, frozen=True, kw_only=True):
    """A token, and the seconds that it is good for."""

    token: str
    expires_in: int


class TaskClaims(Struct, frozen=True, kw_only=True):
    """What a verified task token says. `sub` is TYPE:ID of the subject, or as `act` IDENTITY:AGENT; `exp` in s."""

    task: str
    workflow: str
    revision: str
    fence: int
    sub: str
    act: str
    exp: int
    jti: str


class TaskTokens:
    """Mints and verifies the tokens of one trust domain, whose name is `issuer`."""

    def __init__(self, issuer: str, signer: Signer, keyring: Keyring, clock: Clock) -> None:
        self._issuer = issuer
        self._signer = signer
        self._keyring = keyring
        self._clock = clock
        self._verified: OrderedDict[bytes, TaskClaims] = OrderedDict()

    async def mint(
        self,
        *,
        task: str,
        workflow: str,
        revision: str,
        fence: int,
        principal: Principal,
        subject: Subject | None,
        expires_at_ms: int,
        ttl_s: float,
    ) -> Minted:
        """Make a token good until the sooner of the task's end (ms since the epoch) and `ttl_s` from now.

        Raises Problem `task_expired` where that is over, `identity_unavailable` where nothing can be signed.
        """
        now = self._clock.now() // 1000
        exp = min(expires_at_ms // 1000, now + int(ttl_s))
        if exp <= now:
            raise Problem("task_expired", "the task's time is over, so it gets no token; start a new task")
        claims = {
            "iss": self._issuer,
            "aud": self._issuer,
            "iat": now,
            "exp": exp,
            "jti": encoded(self._clock.random(16)),
            "client_id": principal.agent,
            "sub": subject.name if subject else principal.name,
            "act": {"sub": principal.name},
            "txn": task,
            "scope": SCOPE,
            "buspass": {"workflow": workflow, "rev": revision, "fence": fence},
        }
        return Minted(token=await signed(self._signer, TYP, claims), expires_in=exp - now)

    def known(self, token: str) -> TaskClaims | None:
        """Give the claims of a token that was verified before and is good now; None: `verify` it."""
        digest = _digest(token)
        found = self._verified.get(digest)
        if found is None or self._clock.now() >= (found.exp + SKEW) * 1000:
            return None
        self._verified.move_to_end(digest)
        return found

    async def verify(self, token: str) -> TaskClaims:
        """Give the claims of a genuine task token of this domain that is good now.

        Raises Problem `unauthenticated`, whose detail names the fix, and `state_unavailable` where an unknown key
        can't be looked up. A verified token is remembered by its SHA-256 until it expires.
        """
        if (known := self.known(token)) is not None:
            return known
        digest = _digest(token)
        self._verified.pop(digest, None)
        claims = self._verified[digest] = await self._check(token)
        if len(self._verified) > _KEPT:
            self._verified.popitem(last=False)
        return claims

    async def _check(self, token: str) -> TaskClaims:
        if (mistake := mistaken.credential(token)) is not None:
            raise Problem("unauthenticated", mistake)
        try:
            unverified = read(token)
            await self._prove(unverified)
            return _claims(unverified.claims, self._issuer)
        except Expired as error:
            raise Problem("unauthenticated", _renewal(error, unverified)) from None
        except Untrusted as error:
            raise Problem("unauthenticated", str(error)) from None

    async def _prove(self, token: Unverified) -> None:
        if (mistake := mistaken.token(token, self._issuer)) is not None:
            raise Untrusted(mistake)
        if token.algorithm not in ALGORITHMS:
            raise Untrusted(f"alg {token.algorithm!r} is not accepted: task tokens are signed with ES256")
        key = await self._keyring.key(token.kid)
        if key is None:
            raise Untrusted("the task token is signed with a key that no host of this trust domain has")
        check_signature(token, key, ALGORITHMS)
        check_times(token, self._clock, required=("exp", "iat"))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def signed(signer: Signer, typ: str, claims: Mapping[str, Any]) -> str:
    """Sign, or raise Problem `identity_unavailable`."""
    try:
        return await sign(signer, typ, claims)
    except SignerUnavailable as error:
        raise Problem(
            "identity_unavailable", "this host's signing key can't be used now; try again", retry_after=2
        ) from error


def _renewal(error: Expired, token: Unverified) -> str:
    return (
        f"{error}: renew it with the workload's own OIDC token as actor_token at POST /oauth2/token, take the task "
        f"over at POST /v1/tasks/{token.says('txn')}/resume, or start a new one"
    )


def _claims(claims: Mapping[str, Any], issuer: str) -> TaskClaims:
    """Every claim's presence and type: a signed token that lacks one was made for something else."""
    if claims.get("aud") != issuer:
        raise Untrusted("the task token is for another audience (aud)")
    for name in ("jti", "client_id", "sub", "txn"):
        _text(claims, name)
    if claims.get("scope") != SCOPE:
        raise Untrusted(f"the task token's scope is missing or not {SCOPE!r}")
    act, ours = claims.get("act"), claims.get("buspass")
    if not isinstance(act, dict) or not isinstance(ours, dict):
        raise Untrusted("the task token's act or buspass is missing or no object")
    fence, exp = ours.get("fence"), claims["exp"]
    if type(fence) is not int or fence < 0 or type(exp) is not int:
        raise Untrusted("the task token's fence or exp is missing or no whole number")
    return TaskClaims(
        task=_text(claims, "txn"),
        workflow=_text(ours, "workflow"),
        revision=_text(ours, "rev"),
        fence=fence,
        sub=_text(claims, "sub"),
        act=_text(act, "sub"),
        exp=exp,
        jti=_text(claims, "jti"),
    )


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise Untrusted(f"the task token's {name} is missing or no text")
    return value
