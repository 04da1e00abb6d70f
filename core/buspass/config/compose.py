"""The judged file's parts as settings: units fixed, defaults that depend on each other filled in.

Takes a file without faults; refuses to find any.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from msgspec.structs import replace

from buspass.config import prices, settings
from buspass.config.schema import Configuration
from buspass.config.schema.inference import AuthKinds, Model, Target
from buspass.config.schema.tools import Tool
from buspass.config.schema.workflows import Budget, LoopsRule, PersonalData, StepRule, Workflow
from buspass.model import ACCOUNTS

LOCAL: Final = "local"
"""The local issuer's name among the identities."""
NOTHING: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
"""The input of a tool that takes none."""
FIRST_TOKEN: Final = 30.0
TOTAL: Final = 120.0

IMPLICIT: Final = {
    "openai": settings.Provider(
        name="openai",
        api="openai",
        base_url="https://api.openai.com/v1",
        auth=settings.Auth(kind="bearer", secret="OPENAI_API_KEY"),  # noqa: S106 - a secret's name
    ),
    "anthropic": settings.Provider(
        name="anthropic",
        api="anthropic",
        base_url="https://api.anthropic.com",
        auth=settings.Auth(kind="header", header="x-api-key", secret="ANTHROPIC_API_KEY"),  # noqa: S106
    ),
}
"""Providers that an alias `PROVIDER/MODEL` brings with it where the file doesn't describe them."""


def implicit_targets(file: Configuration) -> dict[str, tuple[str, str]]:
    """The aliases `PROVIDER/MODEL` in use that the file doesn't define, with their provider and model."""
    named = (alias for workflow in file.workflows.values() for alias in workflow.models if alias not in file.models)
    split = ((alias, alias.partition("/")) for alias in named)
    return {alias: (provider, model) for alias, (provider, _, model) in split if provider and model}


def providers(file: Configuration) -> dict[str, settings.Provider]:
    """The file's providers, and those that implicit aliases bring."""
    found = {
        name: settings.Provider(
            name=name,
            api=shape.api,
            base_url=shape.base_url or "",
            auth=_auth(shape.auth),
            region=shape.region or "",
            rpm=shape.limits.rpm if shape.limits else None,
            tpm=shape.limits.tpm if shape.limits else None,
        )
        for name, shape in file.providers.items()
    }
    for provider, _ in implicit_targets(file).values():
        if provider not in found and provider in IMPLICIT:
            found[provider] = IMPLICIT[provider]
    return found


def price(file: Configuration, provider: str, model: str) -> settings.Price | None:
    """What a target costs: the file's own price, else the public list's by the provider's name, then by its api."""
    api = file.providers[provider].api if provider in file.providers else provider
    own = file.prices.get(f"{provider}/{model}")
    if own is None:
        found = prices.listed(provider, model) or prices.listed(api, model)
        return found and whole(found, api)
    return whole(
        settings.Price(
            input=own.input,
            output=own.output,
            cached_input=own.input if own.cached_input is None else own.cached_input,
            cache_write=own.cache_write,
            cache_write_1h=own.cache_write_1h,
            version="file",
        ),
        api,
    )


def whole(price: settings.Price, api: str) -> settings.Price:
    """Fill in what writing to a cache costs: without a price of its own, what plain input does; at Anthropic more."""
    if api == "anthropic":
        return price
    tiers = tuple(replace(tier, **_writes(tier)) for tier in price.tiers)
    return replace(price, **_writes(price), tiers=tiers)


def _writes(row: settings.Price | settings.Tier) -> dict[str, Any]:
    short = row.input if row.cache_write is None else row.cache_write
    return {"cache_write": short, "cache_write_1h": short if row.cache_write_1h is None else row.cache_write_1h}


def models(file: Configuration) -> dict[str, settings.Model]:
    """The file's aliases, and the implicit ones in use."""
    shapes = dict(file.models)
    for alias, (provider, model) in implicit_targets(file).items():
        shapes[alias] = Model(targets=[Target(provider=provider, model=model)])
    return {alias: _model(file, alias, shape) for alias, shape in shapes.items()}


def _model(file: Configuration, alias: str, shape: Model) -> settings.Model:
    first, total = shape.timeout.first_token, shape.timeout.total
    return settings.Model(
        alias=alias,
        targets=tuple(
            settings.Target(
                provider=target.provider,
                model=target.model,
                weight=1 if target.weight is None else target.weight,
                price=price(file, target.provider, target.model),
            )
            for target in shape.targets
        ),
        strategy=shape.strategy,
        first_token=min(FIRST_TOKEN, total or TOTAL) if first is None else first,
        total=max(TOTAL, first or 0.0) if total is None else total,
        attempts=shape.retry.attempts,
        retry_budget=shape.retry.budget,
        idle=shape.timeout.idle,
        max_output=shape.max_output,
    )


def _auth(shape: AuthKinds | None) -> settings.Auth:
    if shape is None or shape.none is not None:
        return settings.Auth(kind="none")
    if shape.bearer is not None:
        return settings.Auth(kind="bearer", secret=shape.bearer.secret)
    if shape.header is not None:
        return settings.Auth(kind="header", header=shape.header.name, secret=shape.header.secret)
    assert shape.txn is not None, "config.unavailable refuses the rest"
    return settings.Auth(kind="txn", audience=shape.txn.audience)


def plain(value: Any) -> Any:
    """A part of the file as plain JSON: exact numbers become JSON's."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def tools(file: Configuration) -> dict[str, settings.Tool]:
    """The HTTP tools."""
    return {name: _tool(name, shape) for name, shape in file.tools.items()}


def _tool(name: str, shape: Tool) -> settings.Tool:
    assert shape.http is not None, "config.unavailable refuses the rest"
    method = shape.http.method
    return settings.Tool(
        name=name,
        description=shape.description,
        hosts=None if shape.hosts is None else tuple(shape.hosts),
        method=method,
        url=shape.http.url,
        input=NOTHING if shape.input is None else plain(shape.input),
        output=None if shape.output is None else plain(shape.output),
        timeout=shape.timeout,
        auth=_auth(shape.auth),
        keep=dict(shape.keep),
        statuses=tuple(shape.statuses),
        idempotent=method not in {"POST", "PATCH"} if shape.idempotent is None else shape.idempotent,
        max_bytes=shape.max_bytes,
        rate=shape.rate,
        polling=shape.polling.min_interval if shape.polling else None,
    )


def workflows(file: Configuration, *, local_issuer: bool) -> dict[str, settings.Workflow]:
    """The workflows; without `agents:` a local issuer's agents may start one, else nobody."""
    anybody_here = (settings.AgentRule(identity=LOCAL, agent="*"),) if local_issuer else ()
    return {name: _workflow(name, shape, anybody_here) for name, shape in file.workflows.items()}


def _workflow(name: str, shape: Workflow, default: tuple[settings.AgentRule, ...]) -> settings.Workflow:
    subject = shape.subject
    return settings.Workflow(
        name=name,
        agents=default
        if shape.agents is None
        else tuple(settings.AgentRule(identity=agent.identity, agent=agent.agent) for agent in shape.agents),
        subject=None if subject is None else settings.SubjectRule(types=tuple(subject.types), proof=subject.proof),
        models=tuple(shape.models),
        route={step.tool: _step(step) for step in shape.tools},
        limits=_limits(shape.budget),
        wall=shape.budget.wall,
        depth=shape.budget.depth,
        wait=shape.budget.wait,
        token_ttl=shape.token_ttl,
        require_thought=shape.require_thought,
        payloads=shape.logging.payloads,
        retain=shape.logging.retain,
        replay_ttl=shape.replay.ttl,
        pool=shape.pool,
        timed=frozenset(after.tool for step in shape.tools for after in step.after if after.within is not None),
        personal_data=None if shape.personal_data is None else _personal_data(shape.personal_data),
        loops=None if shape.loops is None else _loops(shape.loops),
        observe=shape.enforce == "observe",
        soft=shape.budget.soft,
        wrap_up=shape.budget.wrap_up,
    )


def _loops(shape: LoopsRule) -> settings.Loops:
    counts = shape.model_dump(exclude={"action"})
    return settings.Loops(**counts, kill=shape.action == "kill")


def _personal_data(shape: PersonalData) -> settings.PersonalData:
    return settings.PersonalData(
        to_models=shape.to_models,
        to_tools={tool: frozenset(classes) for tool, classes in shape.to_tools.items()},
        to_agent=shape.to_agent,
        block=frozenset(shape.block),
        phone_regions=tuple(dict.fromkeys(shape.phone_regions)),
    )


def _limits(budget: Budget) -> dict[str, int]:
    accounts = ((account, getattr(budget, account)) for account in ACCOUNTS)
    return {account: limit for account, limit in accounts if limit is not None}


def _step(shape: StepRule) -> settings.Step:
    return settings.Step(
        tool=shape.tool,
        where=plain(shape.where),
        after=tuple(
            settings.After(tool=rule.tool, where=plain(rule.where), within=rule.within) for rule in shape.after
        ),
        max_calls=shape.max_calls,
    )


def identity(file: Configuration) -> dict[str, settings.IdentityProvider]:
    """The identity entries; one that operators come from maps `groups` to the claim of that name unless it says so."""
    operating = {operator.identity for operator in file.operators}
    return {
        entry.name: settings.IdentityProvider(
            name=entry.name,
            issuer=entry.issuer,
            audience=entry.audience,
            claims={**({"groups": "groups"} if entry.name in operating else {}), **entry.claims},
            subject=None
            if entry.subject is None
            else settings.SubjectClaims(type=entry.subject.type, id=entry.subject.id),
        )
        for entry in file.identity
    }


def pools(file: Configuration) -> dict[str, settings.Pool]:
    """The pools."""
    return {
        name: settings.Pool(
            name=name, cost=shape.cost[0], period=shape.cost[1], parent=shape.parent, shards=shape.shards
        )
        for name, shape in file.pools.items()
    }


def webhooks(file: Configuration) -> dict[str, settings.Webhook]:
    """Where messages go."""
    return {
        name: settings.Webhook(name=name, url=shape.url, on=tuple(dict.fromkeys(shape.on)), secret=shape.secret.secret)
        for name, shape in file.webhooks.items()
    }


def peers(file: Configuration) -> dict[str, settings.Peer]:
    """Other trust domains."""
    return {name: settings.Peer(name=name, url=shape.url, issuer=shape.issuer) for name, shape in file.peers.items()}


def opa(file: Configuration) -> str:
    """The URL of the OPA server that policy is asked of, or "" where it is asked here."""
    server = file.policy.engine.opa if file.policy else None
    return server.url if server else ""


def operators(file: Configuration) -> tuple[settings.OperatorRule, ...]:
    """Who may operate."""
    return tuple(settings.OperatorRule(identity=each.identity, group=each.group) for each in file.operators)
