"""`buspass models [diff A B]`: what a configuration's aliases lead to, and what each target costs by which price list.

Refuses to price anything by itself: `buspass.config` does, and this shows what it holds.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import to_builtins

from buspass.cli.printable import printable, table
from buspass.cli.stop import FAILED, OK, USAGE, Stop
from buspass.errors import ConfigError

if TYPE_CHECKING:
    from buspass.config.settings import Price, Settings, Tier

PICO: Final = 10**6
"""Pico-dollars a token in one USD per million tokens."""
ROWS: Final = ("input", "cached_input", "cache_write", "cache_write_1h", "output")
FORMS: Final = "allowed: nothing, or diff A B"
USAGE_LINES: Final = """\
buspass models [--config F | --provider P] [--json]
       buspass models diff A B [--config F] [--json]"""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "models",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=USAGE_LINES,
        help="aliases, their targets, and what each costs",
        description="Shows the aliases of a configuration (--config, else BUSPASS_CONFIG, else ./buspass.yaml), their\n"
        "targets and prices in USD per million tokens. A is an alias, or PROVIDER/MODEL.",
        epilog="examples:\n  buspass models\n  buspass models --provider openai\n"
        "  buspass models diff openai/gpt-5-mini anthropic/claude-haiku-4-5",
    )
    parser.add_argument("words", nargs="*", metavar="diff A B", help="two models side by side")
    parser.add_argument("--config", metavar="F", type=Path, help="buspass.yaml")
    parser.add_argument("--provider", metavar="P", help="every model that this provider's public list prices")
    parser.add_argument("--json", action="store_true", help="answer for machines")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show models. Raises Stop, ConfigError."""
    match arguments.words:
        case []:
            return _priced(arguments) if arguments.provider else _aliases(arguments)
        case ["diff", first, second] if not arguments.provider:
            return _diff(arguments, first, second)
    raise Stop(f"which models? {FORMS}", USAGE)


def _path(arguments: argparse.Namespace) -> Path | None:
    if named := arguments.config or os.environ.get("BUSPASS_CONFIG"):
        return Path(named)
    found = Path("buspass.yaml")
    return found if found.exists() else None


def _settings(arguments: argparse.Namespace) -> Settings | None:
    """The configuration; None where there is none."""
    if (path := _path(arguments)) is None:
        return None
    # pydantic and YAML cost a quarter of a second, which no other verb should pay
    from buspass.config.build import load  # noqa: PLC0415

    try:
        return load(path, environ=os.environ)
    except ConfigError as error:
        hint = "buspass models --provider P lists what a provider's models cost"
        raise ConfigError([*error.problems, hint]) from error


def _aliases(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    if settings is None:
        raise Stop("which configuration? name one with --config, or a provider's list with --provider", USAGE)
    found = [
        {"alias": alias, "strategy": model.strategy, "weight": target.weight, **_described(target)}
        for alias, model in settings.models.items()
        for target in model.targets
    ]
    if arguments.json:
        print(json.dumps({"revision": settings.revision, "data": found}, indent=2))
        return OK
    rows = [
        row
        for alias, model in settings.models.items()
        for index, target in enumerate(model.targets)
        for row in _rows(
            (alias if index == 0 else "", f"{target.provider}/{target.model}{_share(model, target)}"), target.price
        )
    ]
    print("\n".join(table(("ALIAS", "TARGET", *_TITLES), rows, (0, 1))))
    return OK


def _priced(arguments: argparse.Namespace) -> int:
    from buspass.config import prices  # noqa: PLC0415 - the lists take a third of a second

    found = prices.models(arguments.provider)
    if not found:
        raise Stop(f"no price list knows a provider {arguments.provider!r}", FAILED)
    if arguments.json:
        print(json.dumps({"data": {model: _plain(price) for model, price in found.items()}}, indent=2))
        return OK
    rows = [row for model, price in found.items() for row in _rows((f"{arguments.provider}/{model}",), price)]
    print("\n".join(table(("MODEL", *_TITLES), rows, (0,))))
    return OK


_TITLES: Final = ("INPUT", "CACHED", "WRITE", "WRITE 1H", "OUTPUT", "PRICE")


def _share(model: Any, target: Any) -> str:
    return f" ({target.weight})" if model.strategy == "weighted" else ""


def _described(target: Any) -> dict[str, Any]:
    price = None if target.price is None else _plain(target.price)
    return {"target": f"{target.provider}/{target.model}", "price": price}


def _plain(price: Price) -> dict[str, Any]:
    """A price in USD per million tokens, as JSON."""
    whole = to_builtins(price)
    tiers = [{"start": tier["start"], **_usd(tier)} for tier in whole["tiers"]]
    return {**_usd(whole), "tiers": tiers, "version": price.version}


def _usd(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: None if row[name] is None else row[name] / PICO for name in ROWS}


def _rows(names: Sequence[str], price: Price | None) -> Iterator[tuple[str, ...]]:
    """A target's line, and one more for each tier."""
    if price is None:
        yield (*names, *("-" for _ in ROWS), "none")
        return
    yield (*names, *_cells(price), price.version)
    for tier in price.tiers:
        yield (*("" for _ in names), *_cells(tier), f"input above {tier.start:,}")


def _cells(row: Price | Tier) -> Iterator[str]:
    return (_shown(getattr(row, name)) for name in ROWS)


def _shown(pico: int | None) -> str:
    if pico is None:
        return "-"
    text = f"{Decimal(pico) / PICO:f}"
    head, _, decimals = text.partition(".")
    return f"{head}.{decimals.rstrip('0').ljust(2, '0')}"


def _diff(arguments: argparse.Namespace, first: str, second: str) -> int:
    settings = _settings(arguments)
    prices = [_price(name, settings) for name in (first, second)]
    if arguments.json:
        print(json.dumps({name: _plain(price) for name, price in zip((first, second), prices, strict=True)}, indent=2))
        return OK
    left, right = prices
    rows = [*_compared(left, right)]
    for start in sorted({tier.start for price in prices for tier in price.tiers}):
        rows += _compared(_above(left, start), _above(right, start), f" above {start:,}")
    rows.append(("price", left.version, right.version, ""))
    print("\n".join(table(("USD PER MILLION TOKENS", first, second, "CHANGE"), rows, (1, 2))))
    return OK


def _above(price: Price, start: int) -> Price | Tier:
    """What an input just above `start` costs."""
    return next((tier for tier in reversed(price.tiers) if tier.start <= start), price)


def _compared(left: Price | Tier, right: Price | Tier, where: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name in ROWS:
        one, two = getattr(left, name), getattr(right, name)
        change = f"{(two - one) / one:+.0%}" if one and two is not None else ""
        yield f"{name}{where}", _shown(one), _shown(two), change


def _price(name: str, settings: Settings | None) -> Price:
    """What an alias of one target, or PROVIDER/MODEL, costs: as the configuration says, else by the public list."""
    from buspass.config import compose, prices  # noqa: PLC0415

    if settings and (model := settings.models.get(name)):
        if len(model.targets) > 1:
            those = ", ".join(f"{each.provider}/{each.model}" for each in model.targets)
            raise Stop(f"{printable(name)} has {len(model.targets)} targets; name one of them: {those}", USAGE)
        provider, wanted = model.targets[0].provider, model.targets[0].model
    else:
        provider, _, wanted = name.partition("/")
    for each in (target for model in (settings.models.values() if settings else ()) for target in model.targets):
        if (each.provider, each.model) == (provider, wanted) and each.price:
            return each.price
    api = settings.providers[provider].api if settings and provider in settings.providers else provider
    found = prices.listed(provider, wanted) or prices.listed(api, wanted)
    if found is None:
        near = difflib.get_close_matches(wanted, prices.models(provider) or prices.models(api), n=3)
        hint = f"; near: {', '.join(f'{provider}/{each}' for each in near)}" if near else ""
        raise Stop(f"no price for {printable(name)!r}: an alias, or PROVIDER/MODEL{hint}", FAILED)
    return compose.whole(found, api)
