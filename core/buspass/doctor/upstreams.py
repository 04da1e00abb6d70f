"""Checks of the providers, and of this host's clock against everybody who gave the time.

A provider is asked for its list of models (GET …/models), which is never billed and needs the key.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Final

from buspass.config.settings import Provider, Settings
from buspass.doctor.finding import Finding, good, refused, warned
from buspass.doctor.patient import Patient
from buspass.errors import Problem
from buspass.identity.jws import SKEW
from buspass.ports.outbound import Ambiguous, NotSent, Request, Response
from buspass.ports.secrets import SecretMissing
from buspass.tools.auth import headers

TIMEOUT: Final = 10.0
LARGEST: Final = 4_000_000


async def providers(patient: Patient) -> AsyncIterator[Finding]:
    """Ask each provider that an alias leads to; say which targets have no price."""
    used = {target.provider for model in patient.settings.models.values() for target in model.targets}
    for name, provider in patient.settings.providers.items():
        if name in used:
            yield await _reached(patient, provider)
    for finding in _unpriced(patient.settings):
        yield finding


async def _reached(patient: Patient, provider: Provider) -> Finding:
    try:
        secret = await patient.secrets.get(provider.auth.secret) if provider.auth.secret and patient.secrets else None
        sent = headers(provider.auth, secret=secret)
    except (SecretMissing, Problem):
        what = f"not asked: its secret {provider.auth.secret} is not to be had"
        return Finding(check="providers", about=provider.name, status="unknown", what=what)
    url = provider.base_url + "/models"
    if provider.api == "anthropic":
        url = provider.base_url.removesuffix("/v1") + "/v1/models"
        sent["anthropic-version"] = "2023-06-01"
    try:
        answer = await patient.outbound.send(
            Request(method="GET", url=url, headers=sent, timeout=TIMEOUT, limit=LARGEST)
        )
    except (NotSent, Ambiguous) as error:
        remedy = "see base_url, DNS, the firewall, and whether the provider is up"
        return refused("providers", provider.name, f"{provider.base_url} can't be reached: {error}", remedy)
    return _judged(patient.settings, provider, answer)


def _judged(settings: Settings, provider: Provider, answer: Response) -> Finding:
    name, status = provider.name, answer.status
    if status in {401, 403}:
        secret = f"secret {provider.auth.secret}" if provider.auth.secret else "auth: none"
        remedy = f"put a key that is valid for {provider.base_url} there, and see that it may list models"
        return refused("providers", name, f"answers {status}: it does not take {secret}", remedy)
    if status == 429 or status >= 500:
        return warned("providers", name, f"is reached, and answers {status}", "see the provider's own status page")
    if status != 200:
        return good("providers", name, f"is reached; lists no models (answers {status}), so the key was not tried")
    listed = _listed(answer.body)
    targets = (target for model in settings.models.values() for target in model.targets)
    unknown = sorted({target.model for target in targets if target.provider == name} - listed) if listed else []
    if unknown:
        what = f"is reached, and does not list {', '.join(unknown)}"
        return warned("providers", name, what, "see whether this key may use the model, and how it is spelt")
    return good("providers", name, "is reached, and takes the key")


def _listed(body: bytes) -> set[str]:
    """The ids of a list of models; none where it is no such list, or only the first page of one."""
    try:
        document = json.loads(body)
        return set() if document.get("has_more") else {str(row["id"]) for row in document["data"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _unpriced(settings: Settings) -> Iterator[Finding]:
    targets = {(each.provider, each.model): each for model in settings.models.values() for each in model.targets}
    for (provider, model), target in targets.items():
        if target.price is None:
            remedy = f"add prices: {{{provider}/{model}: …}}; `buspass models --provider {provider}` lists known ones"
            what = "has no price: refused where cost is limited, not counted elsewhere"
            yield warned("providers", f"{provider}/{model}", what, remedy)


async def clock(patient: Patient) -> AsyncIterator[Finding]:
    """Compare with the Date of every answer that came: tokens are judged with SKEW seconds of grace, no more."""
    skews = patient.outbound.skews
    if not skews:
        what = "nobody who was asked gave the time"
        yield Finding(check="clock", about=patient.host.name, status="unknown", what=what)
    for name, seconds in skews.items():
        if abs(seconds) <= SKEW:
            yield good("clock", name, f"within {SKEW} s")
        else:
            what = f"this host is {abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead'}; {SKEW} s are allowed"
            yield refused("clock", name, what, "let NTP or chrony set this host's clock, or see whose is wrong")
