"""The providers' public price lists, by the id of a list and a model's name, as genai-prices maintains them.

The file's own `prices:` come first. Refuses to guess: a model that isn't listed has no price, and neither has one whose
calls cost more than their tokens, or another amount at another hour. Read only while a configuration is built: the
lists take a third of a second to import.
Source: github.com/pydantic/genai-prices, which names the page and the day of each price; standard service tier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

from buspass.config.settings import Price, Tier

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider, TieredPrices

LISTS: Final[Mapping[str, str]] = {"azure-openai": "azure", "bedrock": "aws"}
"""The list of a wire format, where it isn't of that name."""
PICO: Final = 10**6
"""Pico-dollars a token in one USD per million tokens."""

INPUT, OUTPUT, CACHED, WRITE, WRITE_1H = TOKENS = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
)
NEVER_ASKED: Final = ("web_searches_", "storage_searches_", "input_audio_", "output_audio_", "cache_audio_")
"""Prices of what a gateway's call can't ask for: tools that the provider runs itself, and sound."""


BELOW: Final = -1
"""Where a tier would start that every input has reached."""


def listed(name: str, model: str, now: datetime | None = None) -> Price | None:
    """What `model` costs by the list called `name`, a provider's id or an `api`; None where it doesn't surely say.

    `now` (by default the present) picks among prices of different days. Prices above a number of input tokens come
    along as tiers; those of a cache's writes are None where they are not listed.
    """
    provider = _provider(name)
    found = provider.find_model(model, all_providers=_providers()) if provider else None
    return _price(found, now or datetime.now(UTC)) if found else None


def models(name: str, now: datetime | None = None) -> dict[str, Price]:
    """Every model that the list called `name` prices, by its id, in the list's order."""
    provider = _provider(name)
    priced = ((model.id, _price(model, now or datetime.now(UTC))) for model in (provider.models if provider else ()))
    return {model: price for model, price in priced if price is not None}


def version() -> str:
    """What a price from here is labelled with: the package and its release."""
    import genai_prices  # noqa: PLC0415 - see the module's docstring

    return f"genai-prices {genai_prices.__version__}"


@cache
def _providers() -> list[Provider]:
    from genai_prices.data import providers  # noqa: PLC0415

    return providers


def _provider(name: str) -> Provider | None:
    from genai_prices.data_snapshot import find_provider_by_id  # noqa: PLC0415

    return find_provider_by_id(_providers(), LISTS.get(name, name))


def _price(model: ModelInfo, now: datetime) -> Price | None:
    if _by_the_hour(model):
        return None
    said = {key: value for key, value in vars(model.get_prices(now)).items() if value is not None}
    asked = {key: value for key, value in said.items() if not key.startswith(NEVER_ASKED)}
    if not {INPUT, OUTPUT} <= asked.keys() <= set(TOKENS):
        return None
    tiers = tuple(_tier(asked, start) for start in sorted(set(_starts(asked))))
    base = _tier(asked, BELOW)
    return Price(
        input=base.input,
        output=base.output,
        cached_input=base.cached_input,
        cache_write=base.cache_write,
        cache_write_1h=base.cache_write_1h,
        tiers=tiers,
        version=version(),
    )


def _by_the_hour(model: ModelInfo) -> bool:
    from genai_prices.types import TimeOfDateConstraint  # noqa: PLC0415

    return isinstance(model.prices, list) and any(
        isinstance(each.constraint, TimeOfDateConstraint) for each in model.prices
    )


def _starts(asked: Mapping[str, Decimal | TieredPrices]) -> Iterator[int]:
    for value in asked.values():
        if not isinstance(value, Decimal):
            yield from (tier.start for tier in value.tiers)


def _tier(asked: Mapping[str, Decimal | TieredPrices], start: int) -> Tier:
    """Every price as it is for an input just above `start` tokens."""
    row = {key: _pico(value, start) for key, value in asked.items()}
    return Tier(
        start=start,
        input=row[INPUT],
        output=row[OUTPUT],
        cached_input=row.get(CACHED, row[INPUT]),
        cache_write=row.get(WRITE),
        cache_write_1h=row.get(WRITE_1H),
    )


def _pico(value: Decimal | TieredPrices, start: int) -> int:
    if not isinstance(value, Decimal):
        reached = [tier.price for tier in value.tiers if tier.start <= start]
        value = reached[-1] if reached else value.base
    return int((value * PICO).to_integral_value(ROUND_CEILING))
