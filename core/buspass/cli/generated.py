"""The configuration of `buspass run` where there is no file, and the one that `buspass init` writes after a run.

Owns both texts and which models they offer. Refuses to serve them, and to ask a provider anything but for the names of
its models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

WORKFLOW: Final = "run"
COST: Final = 1.00
"""USD that a run without a file may spend, unless it says --cost."""
WALL: Final = "8h"
"""How long such a run may take; its token lives as long."""
SECONDS: Final = 3
"""For a provider's list of models: without it the price list alone decides."""
OUTPUT: Final = 4096
"""Tokens of an answer at most, where neither the agent nor `max_output` says otherwise."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CHAT: Final = {"openai": re.compile(r"(gpt-|chatgpt-|o[0-9])"), "anthropic": re.compile(r"claude-[a-z0-9]")}
OTHER: Final = re.compile(r"audio|realtime|transcribe|tts|image|instruct|search|moderation|0301|-v1$|oss|vision")
"""What is no chat model, by its name."""


class Provider(Struct, frozen=True, kw_only=True):
    """A provider whose key is in the environment. `base_url` is as the file has it."""

    name: str
    base_url: str
    secret: str
    auth: str

    def line(self) -> str:
        """Give the provider's line in `providers:`."""
        return f"  {self.name}: {{api: {self.name}, base_url: '{self.base_url}', auth: {self.auth}}}"


_BEARER: Final = "{bearer: {secret: OPENAI_API_KEY}}"
_HEADER: Final = "{header: {name: x-api-key, secret: ANTHROPIC_API_KEY}}"


def found(environ: Mapping[str, str]) -> list[Provider]:
    """Give the providers whose usual key is set, at their usual address or where their SDK's variable says."""
    openai = Provider(
        name="openai",
        base_url=_url(environ.get("OPENAI_BASE_URL"), "https://api.openai.com/v1"),
        secret="OPENAI_API_KEY",  # noqa: S106 - a variable's name
        auth=_BEARER,
    )
    anthropic = Provider(
        name="anthropic",
        base_url=_url(environ.get("ANTHROPIC_BASE_URL"), "https://api.anthropic.com"),
        secret="ANTHROPIC_API_KEY",  # noqa: S106 - a variable's name
        auth=_HEADER,
    )
    return [provider for provider in (openai, anthropic) if environ.get(provider.secret)]


def _url(said: str | None, usual: str) -> str:
    url = (said or usual).rstrip("/")
    return usual if "'" in url else url


def models(provider: Provider, key: str) -> list[str]:
    """Give the names of the chat models with a price: the public list's, and dated ones that the provider offers."""
    from buspass.config import prices  # noqa: PLC0415 - the lists take a third of a second

    names = [*prices.models(provider.name), *_offered(provider, key)]
    wanted = [name for name in dict.fromkeys(names) if _is_chat(provider.name, name)]
    return [name for name in wanted if prices.listed(provider.name, name)]


def _is_chat(provider: str, name: str) -> bool:
    return bool(NAME.fullmatch(name) and CHAT[provider].match(name)) and not OTHER.search(name)


def _offered(provider: Provider, key: str) -> list[str]:
    """Ask the provider for its models: an agent may use a dated name that no price list spells out."""
    import httpx  # noqa: PLC0415 - a tenth of a second

    if provider.name == "anthropic":
        url, headers = "/v1/models?limit=1000", {"x-api-key": key, "anthropic-version": "2023-06-01"}
    else:
        url, headers = "/models", {"authorization": f"Bearer {key}"}
    try:
        answer = httpx.get(provider.base_url + url, headers=headers, timeout=SECONDS)
        return [str(row["id"]) for row in answer.json()["data"]] if answer.is_success else []
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return []  # the agent's first call will say what is wrong there, in the provider's own words


def configuration(offers: Mapping[str, tuple[Provider, Iterable[str]]], cost: float, *, observe: bool = False) -> str:
    """Give the file of a run without one: each model under its bare name and as PROVIDER/MODEL, `cost` USD in all.

    Payloads are kept in full for a day: they lie on this machine alone, and the timeline shows what was thought.
    """
    pairs = [(provider.name, model) for provider, names in offers.values() for model in names]
    bare = dict(reversed([(model, provider) for provider, model in pairs]))
    aliases = [*bare, *(f"{provider}/{model}" for provider, model in pairs)]
    return "\n".join(
        [
            "version: 1",
            "providers:",
            *(provider.line() for provider, _ in offers.values()),
            "models:",
            *(f"  {alias!r}: {{targets: [{{provider: {name}, model: {alias!r}}}]}}" for alias, name in bare.items()),
            "workflows:",
            f"  {WORKFLOW}:",
            f"    models: [{', '.join(map(repr, aliases))}]",
            f"    budget: {{cost: {cost:.6f}, wall: {WALL}}}",
            f"    token_ttl: {WALL}",
            *(["    enforce: observe"] if observe else []),
            "    logging: {payloads: full, retain: 1d}",
            "",
        ]
    )


def initial(run: Mapping[str, Any], workflow: str) -> str:
    """Give the buspass.yaml for what a run used. `run` is what `buspass.cli.follow.Tally.document` gave of it."""
    used = sorted(run["providers"], key=lambda row: str(row["name"]))
    cost = rounded_up(run["cost"] + max(run["held"], *map(_largest, run["models"].values())))
    functions = ", ".join(f"{name} ({n}×)" for name, n in sorted(run["functions"].items()))
    return "\n".join(
        [
            f"# What `{_one_line(run['command'])}` used: {run['thoughts']} thoughts, ${run['cost']:.6f}.",
            "# `buspass check buspass.yaml` judges it, `buspass run -- …` and `buspass up` serve it.",
            "version: 1",
            "",
            "providers:",
            *(Provider(**row).line() for row in used),
            "",
            *_aliases(run["models"]),
            "workflows:",
            f"  {workflow}:",
            f"    models: [{', '.join(sorted(run['models']))}]",
            f"    budget: {{cost: {cost:g}, wall: {WALL}}}    # USD a task: that run's, and room for a call",
            f"    token_ttl: {WALL}",
            *_functions(functions),
            "    logging: {payloads: full, retain: 1d}    # thoughts and arguments are kept; the default is metadata",
            "",
        ]
    )


def _aliases(models: Mapping[str, tuple[str, str]]) -> list[str]:
    """`models:`, for those that were not called PROVIDER/MODEL, which needs no line."""
    lines = [
        f"  {alias}: {{targets: [{{provider: {provider}, model: {model}}}]}}"
        for alias, (provider, model) in sorted(models.items())
        if "/" not in alias
    ]
    return ["models:", *lines, ""] if lines else []


def _largest(target: tuple[str, str]) -> float:
    """What the gateway holds, in USD, for the answer of a call that sets no limit itself."""
    from buspass.config import prices  # noqa: PLC0415

    price = prices.listed(*target)
    return OUTPUT * price.output / 10**12 if price else 0.0


def _functions(functions: str) -> list[str]:
    if not functions:
        return []
    return [
        f"    # The agent's own functions: {functions}.",
        "    # They pass, as there is no `tools:` here. Name some, and only those pass: the gateway then calls them.",
    ]


def _one_line(text: str) -> str:
    shown = "".join(c if c.isprintable() and c != "`" else "?" for c in text)
    return shown if len(shown) <= 60 else shown[:59] + "…"


def rounded_up(dollars: float) -> float:
    """Give the next of 0.01, 0.02, 0.05, 0.10, … that is at least `dollars`."""
    step = 0.01
    while True:
        for factor in (1, 2, 5):
            if step * factor >= dollars:
                return round(step * factor, 2)
        step *= 10
