"""What of an alias and of a tool stays the same between calls: decided once, while the configuration stands.

Owns how a target and a service are called elsewhere: in records and headers, at the breakers, at the rates. Refuses to
know any call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from buspass.breakers import Key
from buspass.config.settings import Model, Provider, Settings, Target, Tool
from buspass.providers.bounds import Rates, rates
from buspass.rates import Pace
from buspass.rates.pace import SECOND, Limit
from buspass.routing.targets import name
from buspass.tasks import segment
from buspass.tools.http import QUERY_METHODS

MINUTE: Final = 60 * SECOND


class Lane(Struct, frozen=True, kw_only=True, eq=False):
    """A target as this host goes to it. `name`: PROVIDER/MODEL; `pace`: where its provider has limits.

    `rates`: what a call there may cost, where that is plain; `described`: what policy is shown of it.
    """

    target: Target
    name: str
    breaker: Key
    provider: Provider
    pace: Pace | None
    rates: Rates | None
    described: Mapping[str, str]


class Alias(Struct, frozen=True, kw_only=True, eq=False):
    """A model as agents name it. `segment`: its name in a store's paths; `lasts`: what a call may take, in ms."""

    model: Model
    lanes: tuple[Lane, ...]
    breakers: tuple[Key, ...]
    paced: bool
    weighted: bool
    segment: str
    lasts: int


class Service(Struct, frozen=True, kw_only=True, eq=False):
    """What stands behind a tool. `where`: its host, and port if the URL names one; `pace`: where the tool has one.

    `shaped`: arguments become part of its URL, where not every one is fit to.
    """

    where: str
    path: str
    shaped: bool
    breaker: Key
    pace: Pace | None


def aliases(settings: Settings) -> dict[str, Alias]:
    """Give all aliases of a configuration by name."""
    return {alias: _alias(model, settings) for alias, model in settings.models.items()}


def services(settings: Settings) -> dict[str, Service]:
    """Give what stands behind each tool, by the tool's name."""
    return {tool: _service(each) for tool, each in settings.tools.items()}


def watched(models: Iterable[Alias], tools: Iterable[Service]) -> list[Key]:
    """Give the breakers of all of these, each once: of targets, and of services."""
    targets = [key for alias in models for key in alias.breakers]
    return list(dict.fromkeys([*targets, *[service.breaker for service in tools]]))


def _alias(model: Model, settings: Settings) -> Alias:
    lanes = tuple([_lane(target, settings.providers[target.provider]) for target in model.targets])
    return Alias(
        model=model,
        lanes=lanes,
        breakers=tuple([lane.breaker for lane in lanes]),
        paced=any(lane.pace is not None for lane in lanes),
        weighted=model.strategy == "weighted",
        segment=segment(model.alias),
        lasts=round(model.total * 1000),
    )


def _lane(target: Target, provider: Provider) -> Lane:
    named = name(target)
    key = Key("model", named, address=provider.base_url)
    shown = {"name": named, "provider": target.provider, "model": target.model, "region": provider.region}
    return Lane(
        target=target,
        name=named,
        breaker=key,
        provider=provider,
        pace=_pace(provider),
        rates=rates(target.price),
        described=shown,
    )


def _pace(provider: Provider) -> Pace | None:
    limits = {
        kind: Limit(amount=amount, period=MINUTE)
        for kind, amount in (("requests", provider.rpm), ("tokens", provider.tpm))
        if amount is not None
    }
    return Pace(name=f"provider:{provider.name}", shown=provider.name, limits=limits) if limits else None


def _service(tool: Tool) -> Service:
    url = urlsplit(tool.url)
    pace = None
    if tool.rate is not None:
        period = -int(-SECOND / tool.rate // 1)  # rounded up: rather slower than faster
        pace = Pace(name=f"tool:{tool.name}", shown=tool.name, limits={"calls": Limit(amount=1, period=period)})
    shaped = "{" in tool.url or tool.method in QUERY_METHODS
    return Service(where=url.netloc, path=url.path, shaped=shaped, breaker=Key("tool", url.netloc), pace=pace)
