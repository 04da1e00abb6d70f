"""Checks of what a host keeps things in: the state, the keys in it, what is due there, and blobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from buspass.doctor.finding import Finding, good, refused, warned
from buspass.doctor.patient import Patient
from buspass.errors import Problem
from buspass.identity.keyring import Keyring
from buspass.model import DUE_INDEX, DUE_SHARDS
from buspass.ports.blobs import BlobConflict, BlobsUnavailable
from buspass.ports.state import Delete, Equals, Item, OutcomeUnknown, Put, Refused, Unavailable

PROBES: Final = "doctor"
"""The partition, and the folder, of what is written to see whether writing works."""
OVERDUE: Final = 300_000
"""Milliseconds that something may be due before a timer is missed; a cloud's schedule ticks each minute."""

_STATE: Final = "see that the store runs, that this host reaches it and may write: docs/stores.md has the permissions"
_BLOBS: Final = "see that the folder or bucket is there, and that this host may read, write and delete in it"
_RULES: Final = "this store breaks a promise that budgets rest on: use it for nothing before it is mended"


async def state(patient: Patient) -> AsyncIterator[Finding]:
    """Write an item, see that it can't be written twice, read it, delete it on its condition."""
    store, about = patient.state, _shown(patient.host.state)
    assert store is not None
    key = f"probe:{patient.host.name}:{patient.clock.random(8).hex()}"
    item: Item = {"by": patient.host.name, "at": patient.clock.now()}
    try:
        await store.apply(PROBES, [Put(key, item)])
        twice = await store.apply(PROBES, [Put(key, {**item, "at": 0})])
        read = await store.read(PROBES, key)
        wrong = await store.apply(PROBES, [Delete(key, (Equals(("by",), "somebody else"),))])
        gone = await store.apply(PROBES, [Delete(key, (Equals(("by",), patient.host.name),))])
        left = await store.read(PROBES, key)
    except (Unavailable, OutcomeUnknown) as error:
        yield refused("state", about, str(error), _STATE)
        return
    if not isinstance(twice, Refused) or not isinstance(wrong, Refused) or isinstance(gone, Refused):
        yield refused("state", about, "it does not keep the conditions of a write", _RULES)
    elif read != item or left is not None:
        yield refused("state", about, "it does not give what was just written to it", _RULES)
    else:
        yield good("state", about, "written, read and deleted on conditions")


async def known(keyring: Keyring) -> tuple[Finding, ...]:
    """The cheap check, one read: does the store answer, and does it hold this host's public key."""
    try:
        published = await keyring.published()
    except Problem as problem:
        what = f"unavailable: {problem.detail}"
        unknown = Finding(check="keys", about="", status="unknown", what="unknown")
        return refused("state", "", what, _STATE), unknown
    answers = good("state", "", "ok")
    if published:
        return answers, good("keys", "", "ok")
    what, remedy = "this host's public key is not in the store: restart the host", "start the host, or start it again"
    return answers, refused("keys", "", what, remedy)


async def keys(patient: Patient) -> AsyncIterator[Finding]:
    """Say whether other hosts can know this one's signatures. A host puts its key there when it starts."""
    store, signer, domain_key = patient.state, patient.signer, patient.domain_key
    assert store is not None
    assert signer is not None
    assert domain_key is not None
    ring = Keyring(store, signer, patient.host.name, domain_key, patient.clock)
    about = signer.jwk["kid"]
    for each in await known(ring):
        if each.check != "keys":
            continue
        if each.status == "ok":
            yield good("keys", about, "the store holds this host's public key")
        else:
            what = "the store does not hold this host's public key, or another domain key vouched for it"
            yield warned("keys", about, what, "a host publishes it when it starts; if it runs, compare domain keys")


async def timer(patient: Patient) -> AsyncIterator[Finding]:
    """Say whether something has been due for longer than any timer leaves it."""
    store = patient.state
    assert store is not None
    until = f"{patient.clock.now() - OVERDUE:016d}"
    try:
        late = [await store.find(DUE_INDEX, f"due:{shard}", until, 1) for shard in range(DUE_SHARDS)]
    except Unavailable as error:
        yield refused("timer", _shown(patient.host.state), str(error), _STATE)
        return
    if any(late):
        what = f"something has been due for more than {OVERDUE // 60_000} minutes"
        yield warned("timer", patient.host.name, what, "see that a host of this store runs its timer (docs/hosts.md)")
    else:
        yield good("timer", patient.host.name, "nothing is overdue")


async def blobs(patient: Patient) -> AsyncIterator[Finding]:
    """Put a blob where there is none, see that this can't be done twice, get it, delete it."""
    store, about = patient.blobs, _shown(patient.host.blobs)
    assert store is not None
    name = f"{PROBES}/{patient.host.name}-{patient.clock.random(8).hex()}"
    twice = False
    try:
        await store.put(name, b"probe", if_none_match=True)
        try:
            await store.put(name, b"again", if_none_match=True)
            twice = True
        except BlobConflict:
            pass
        read = await store.get(name)
        await store.delete(name)
        left = await store.get(name)
    except (BlobsUnavailable, BlobConflict, OSError) as error:
        yield refused("blobs", about, str(error) or type(error).__name__, _BLOBS)
        return
    if twice or read is None or read[0] != b"probe" or left is not None:
        yield refused("blobs", about, "it does not give what was written, or forgets conditions", _BLOBS)
    else:
        yield good("blobs", about, "put, got and deleted")


def _shown(url: str) -> str:
    """A store's URL without what may be a password in it."""
    scheme, mark, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    del credentials
    return f"{scheme}{mark}…@{place}" if at else url
