"""OIDC tokens of the configured issuers: workloads that act, subjects on whose behalf, operators.

Owns which token is accepted as whose, and the claims taken over from it: the mapped ones, no other. Refuses to know
what the bearer may do then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from buspass.config.settings import IdentityProvider, OperatorRule
from buspass.errors import Problem
from buspass.identity.issuer_keys import IssuerKeys
from buspass.identity.jws import Untrusted, Unverified, check_signature, check_times, read
from buspass.model import Principal, Subject
from buspass.ports.clock import Clock
from buspass.ports.outbound import Outbound
from buspass.ports.state import WHOLE

ALGORITHMS: Final = ("RS256", "ES256")
_TYPES: Final = frozenset({"", "jwt", "at+jwt"})
"""What a `typ` may say, `application/` left out: not a Txn-Token, a DPoP proof, a logout token, …"""
_LONGEST: Final = 256


class LocalVerifier(Protocol):
    """The issuer that a loopback gateway is itself; `identity.local.LocalIssuer` is one."""

    issuer: str

    async def workload(self, token: str) -> Principal: ...


class OidcVerifier:
    """Verifies tokens of `providers` (by the identity entry's name), and of the local issuer where there is one.

    Every method raises Problem `unauthenticated`, whose detail names what to mend, or `identity_unavailable` where
    the issuer's keys can't be had: without proof nobody passes.
    """

    def __init__(
        self,
        providers: Mapping[str, IdentityProvider],
        outbound: Outbound,
        clock: Clock,
        *,
        local: LocalVerifier | None = None,
    ) -> None:
        self._providers = tuple(providers.values())
        self._clock = clock
        self._local = local
        self._keys = {p.issuer: IssuerKeys(p.issuer, outbound, clock) for p in self._providers}

    async def workload(self, token: str) -> Principal:
        """Who acts: a token of an identity that maps `agent`."""
        given = _read(token, "workload's OIDC token")
        if self._local is not None and given.claims.get("iss") == self._local.issuer:
            return await self._local.workload(token)
        provider = await self._prove(given, lambda p: "agent" in p.claims, "workload")
        return _principal(provider, given, provider.claims["agent"])

    async def subject(self, token: str) -> Subject:
        """On whose behalf: a token of an identity with `subject`."""
        given = _read(token, "subject's OIDC token")
        provider = await self._prove(given, lambda p: p.subject is not None, "subject")
        assert provider.subject is not None
        return Subject(type=provider.subject.type, id=_name(given, provider.subject.id, provider), proof="token")

    async def operator(self, token: str, rules: Sequence[OperatorRule]) -> Principal:
        """Who operates: a token of a rule's identity with the rule's group among the mapped claim `groups`.

        The agent is the mapped `agent`, or `sub` where none is mapped. Raises Problem `denied` for a person who is
        proven and in none of the groups.
        """
        given = _read(token, "operator's OIDC token")
        names = {rule.identity for rule in rules}
        provider = await self._prove(given, lambda p: p.name in names, "operator")
        principal = _principal(provider, given, provider.claims.get("agent", "sub"))
        groups = principal.claims.get("groups", [])
        member_of = set(groups) if isinstance(groups, list) else {groups}
        if not any(rule.identity == provider.name and rule.group in member_of for rule in rules):
            raise Problem("denied", f"{principal.name} is in no group that `operators` names")
        return principal

    async def _prove(self, given: Unverified, suits: Callable[[IdentityProvider], bool], role: str) -> IdentityProvider:
        """Find the provider whose token this is, and prove it; its keys are asked only for a token meant for us."""
        try:
            provider = self._choose(given, suits, role)
            key = await self._keys[provider.issuer].key(given.kid)
            _check(key is not None, f"the token is signed with a key that {provider.issuer} does not publish")
            assert key is not None
            check_signature(given, key, ALGORITHMS)
            check_times(given, self._clock)
        except Untrusted as error:
            raise Problem("unauthenticated", str(error)) from None
        return provider

    def _choose(self, given: Unverified, suits: Callable[[IdentityProvider], bool], role: str) -> IdentityProvider:
        typ = given.typ.lower().removeprefix("application/")
        _check(not ("buspass" in given.claims and typ == "at+jwt"), _TASKS_OWN)
        _check(typ in _TYPES, f"typ {given.typ!r}: this is no token that proves a {role}")
        _check(given.algorithm in ALGORITHMS, f"alg {given.algorithm!r} is not accepted; RS256 and ES256 are")
        suiting = [p for p in self._providers if suits(p)]
        ours = [p for p in suiting if p.issuer == given.claims.get("iss")]
        accepted = _listed(p.issuer for p in suiting)
        _check(bool(ours), f"issuer {given.says('iss')!r} proves no {role} here; accepted: {accepted}")
        audiences = _audiences(given)
        meant = [p for p in ours if p.audience in audiences]
        wanted = _listed(p.audience for p in ours)
        _check(bool(meant), f"the token is for another audience (aud); wanted: {wanted}")
        _check(bool(given.kid), "the token's header names no key (kid)")
        return meant[0]


_TASKS_OWN: Final = "this is a task token: it calls models and tools; here the workload's own OIDC token is wanted"


def _check(right: bool, otherwise: str) -> None:
    if not right:
        raise Untrusted(otherwise)


def _read(token: str, what: str) -> Unverified:
    if not token:
        raise Problem("unauthenticated", f"the {what} is missing")
    try:
        return read(token)
    except Untrusted as error:
        raise Problem("unauthenticated", f"{error}; wanted: the {what}") from None


def _audiences(given: Unverified) -> list[str]:
    aud = given.claims.get("aud")
    return [one for one in (aud if isinstance(aud, list) else [aud]) if isinstance(one, str)]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names))) or "none is configured"


def _principal(provider: IdentityProvider, given: Unverified, agent_claim: str) -> Principal:
    mapped = {
        ours: _carried(given.claims[theirs], theirs, provider)
        for ours, theirs in provider.claims.items()
        if given.claims.get(theirs) is not None
    }
    return Principal(
        identity=provider.name,
        issuer=provider.issuer,
        agent=_name(given, agent_claim, provider),
        claims=mapped,
    )


def _name(given: Unverified, claim: str, provider: IdentityProvider) -> str:
    """A claim that names somebody: it stands in tokens, records and rules, so it is short and printable."""
    value = given.claims.get(claim)
    if not isinstance(value, str) or not value or len(value) > _LONGEST or not value.isprintable():
        raise Problem(
            "unauthenticated",
            f"the token of identity {provider.name!r} lacks claim {claim!r}, or it is no printable text of up to "
            f"{_LONGEST} characters",
        )
    return value


def _carried(value: Any, claim: str, provider: IdentityProvider) -> Any:
    """A mapped claim that every store and policy engine keeps as it is; another shape would be lost on the way."""
    if isinstance(value, str | bool) or (type(value) is int and abs(value) <= WHOLE):
        return value
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return list(value)
    raise Problem(
        "unauthenticated",
        f"claim {claim!r} of identity {provider.name!r} is neither text, a whole number, true or false, nor a list of "
        "texts, so it can't be mapped",
    )
