"""The public keys of a trust domain's hosts: published in the store, MACed with the domain key, read by all.

Owns the rows `domain`/`jwk:HOST:KID` and which of them are believed. Refuses to know what is signed with a key.
Whoever can write to the database but lacks the domain key adds no key; deleting a row withdraws its key from every
host within LIFETIME.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

from buspass.errors import Problem
from buspass.identity.cached import Cached
from buspass.identity.domain import DomainKey
from buspass.identity.jws import decoded
from buspass.identity.proving import PublicKey, public_key
from buspass.ports.clock import Clock
from buspass.ports.signer import Signer
from buspass.ports.state import PAGE, Delete, Item, OutcomeUnknown, Put, Refused, State, Unavailable

PARTITION: Final = "domain"
LIFETIME: Final = 300.0
"""Seconds after which the rows are read again without being asked."""
_PREFIX: Final = "jwk:"
_TRIES: Final = 5

type Keys = Mapping[str, PublicKey]


class Keyring:
    """The domain's keys as this host sees them; its own is always among them.

    Every method raises Problem `state_unavailable` where it needs the store and the store is out of reach.
    """

    def __init__(self, state: State, signer: Signer, host: str, domain_key: DomainKey, clock: Clock) -> None:
        self._state = state
        self._host = host
        self._mac_key = domain_key.derive("jwk-mac")
        # Keys once proven stay good while the store is away: without it no call gets its hold anyway.
        self._rows = Cached(self._read, clock, keep_stale=True)
        self._public = {**signer.jwk, "alg": signer.algorithm, "use": "sig"}
        self._kid = signer.jwk["kid"]
        self._own = {self._kid: public_key(self._public, signer.algorithm)}

    async def publish(self) -> None:
        """Put this host's public key into the store. Idempotent; a forged row in its place is replaced."""
        row = self._row(self._host, self._public)
        key = f"{_PREFIX}{self._host}:{self._kid}"
        for _ in range(_TRIES):
            try:
                outcome = await self._state.apply(PARTITION, [Put(key, row)])
                if not isinstance(outcome, Refused) or outcome.item == row:
                    return
                await self._state.apply(PARTITION, [Delete(key, ())])
            except OutcomeUnknown:
                continue  # applied or not: the next try meets its own row, or puts it
            except Unavailable as error:
                raise _away() from error
        raise _away()

    async def published(self) -> bool:
        """Say whether other hosts can know this host's key now. Raises Problem state_unavailable."""
        try:
            return await self._state.read(PARTITION, f"{_PREFIX}{self._host}:{self._kid}") == self._row(
                self._host, self._public
            )
        except Unavailable as error:
            raise _away() from error

    async def key(self, kid: str) -> PublicKey | None:
        """The domain's key of that name. An unknown one has the rows read again, at most every 10 s."""
        if kid in self._own:
            return self._own[kid]
        keys = await self._rows.get()
        if kid not in keys:
            keys = await self._rows.again(keys)
        return keys.get(kid)

    async def jwks(self) -> dict[str, Any]:
        """The document for /.well-known/jwks.json (RFC 7517 §5): every host's public keys, by `kid`."""
        keys = await self._rows.get()
        with contextlib.suppress(Problem):  # what was read before is still true while the store is away
            keys = await self._rows.again(keys)
        return {"keys": [_document(key) for _, key in sorted({**keys, **self._own}.items())]}

    async def check(self, kid: str, data: bytes, signature: str) -> bool:
        """Say whether a host of the domain signed `data`; the signature is base64url (R‖S for ES256)."""
        key = await self.key(kid)
        try:
            return key is not None and key.proves(data, decoded(signature))
        except ValueError:
            return False

    def _row(self, host: str, jwk: Mapping[str, str]) -> dict[str, Any]:
        public = dict(sorted(jwk.items()))
        text = json.dumps([host, public], separators=(",", ":"), sort_keys=True)
        mac = hmac.new(self._mac_key, text.encode(), hashlib.sha256).hexdigest()
        return {"host": host, "jwk": public, "mac": mac}

    async def _read(self) -> tuple[Keys, float]:
        keys: dict[str, PublicKey] = {}
        after = ""
        try:
            while True:
                page = await self._state.list(PARTITION, _PREFIX, after, PAGE)
                for name, item in page:
                    if (key := self._believed(name, item)) is not None:
                        keys[key.kid] = key
                if len(page) < PAGE:
                    return keys, LIFETIME
                after = page[-1][0]
        except Unavailable as error:
            raise _away() from error

    def _believed(self, name: str, item: Item) -> PublicKey | None:
        """The row's key, if a host that holds the domain key put it under this very name."""
        host, jwk, mac = item.get("host"), item.get("jwk"), item.get("mac")
        if not (isinstance(host, str) and isinstance(jwk, Mapping) and isinstance(mac, str)):
            return None
        public = {part: value for part, value in jwk.items() if isinstance(value, str)}
        genuine = self._row(host, public)
        if not hmac.compare_digest(genuine["mac"].encode(), mac.encode()) or len(public) < len(jwk):
            return None
        if name != f"{_PREFIX}{host}:{public.get('kid')}":
            return None
        return _key(public)


def _key(public: dict[str, str]) -> PublicKey | None:
    try:
        return public_key(public, public.get("alg", ""))
    except ValueError:
        return None  # a newer host's kind of key, which this one can't use yet


def _document(key: PublicKey) -> dict[str, Any]:
    return {**key.members, "kid": key.kid, "alg": key.algorithm, "use": "sig"}


def _away() -> Problem:
    return Problem(
        "state_unavailable", "the keys of this trust domain can't be read from its store now; try again", retry_after=2
    )
