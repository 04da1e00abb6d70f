"""The table of checks, and how it is gone through: each by itself, within its time, whatever it raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from msgspec import Struct

from buspass.doctor import people, stores, upstreams
from buspass.doctor.finding import Finding, refused
from buspass.doctor.patient import Patient

SECONDS: Final = 30.0
"""Of one check; each request within it has a shorter time of its own."""


class Check(Struct, frozen=True, kw_only=True):
    """A row: its name, what it asks, the parts it `needs` (names of `Patient`), and what does so."""

    name: str
    asks: str
    run: Callable[[Patient], AsyncIterator[Finding]]
    needs: tuple[str, ...] = ()


CHECKS: Final = (
    Check(name="settings", asks="what is allowed and worth a second look", run=people.settings),
    Check(name="secrets", asks="does each reference resolve", run=people.secrets, needs=("secrets",)),
    Check(name="signer", asks="does it sign, and is that believed", run=people.signer, needs=("signer",)),
    Check(name="state", asks="write, read, refuse, delete an item", run=stores.state, needs=("state",)),
    Check(
        name="keys",
        asks="is this host's public key in the store",
        run=stores.keys,
        needs=("state", "signer", "domain_key"),
    ),
    Check(name="timer", asks="is what is due looked after", run=stores.timer, needs=("state",)),
    Check(name="blobs", asks="put, get, refuse, delete a blob", run=stores.blobs, needs=("blobs",)),
    Check(name="policy", asks="lint, compile, decide once", run=people.policy),
    Check(name="identity", asks="each issuer's discovery and keys", run=people.identity),
    Check(name="operator", asks="who may operate, and is BUSPASS_TOKEN one of them", run=people.operator),
    Check(name="providers", asks="each is reached, takes the secret, is priced", run=upstreams.providers),
    Check(name="limits", asks="do time-outs fit what the host can keep", run=people.limits),
    Check(name="clock", asks="this host's time against theirs", run=upstreams.clock),
)
"""In this order: the clock is last, for it goes by the answers to the others."""


async def examine(patient: Patient) -> list[Finding]:
    """Go through the table. Raises nothing: a check that fails itself is a finding."""
    found: list[Finding] = []
    for check in CHECKS:
        missing = [need for need in check.needs if getattr(patient, need) is None]
        if missing:
            what = f"not asked: {', '.join(missing).replace('_', ' ')} could not be opened"
            found.append(Finding(check=check.name, about=patient.host.name, status="unknown", what=what))
            continue
        try:
            async with asyncio.timeout(SECONDS):
                found += [finding async for finding in check.run(patient)]
        except TimeoutError:
            what = f"gave no answer within {SECONDS:g} s"
            found.append(refused(check.name, patient.host.name, what, "see whether the network lets this host through"))
        except Exception as error:  # noqa: BLE001 - what nobody foresaw must not hide the checks that follow
            what = f"the check itself failed: {type(error).__name__}"
            found.append(refused(check.name, patient.host.name, what, "report this, with the host's log"))
    return found
