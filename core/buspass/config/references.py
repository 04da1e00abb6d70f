"""What names in the file refer to, and whether the parts fit each other: models, tools, hosts, identities, prices.

Everything here is told at once. Refuses to judge a value by itself: the schema did. Routes are `config.routes`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Final

from buspass.config import compose, prices
from buspass.config.document import Path, Problems
from buspass.config.places import Domain
from buspass.config.routes import check_route
from buspass.config.schema import Configuration, Pool
from buspass.config.schema.inference import Model
from buspass.config.schema.workflows import Workflow
from buspass.config.toolsets import check_tool
from buspass.config.unavailable import PROVIDERS

RESERVED: Final = {compose.LOCAL: "the local issuer's", "key": "the keys'"}
"""Identities of their own, which no entry may take."""
PERIODS: Final = ("hour", "day", "week", "month", "")
"""From the shortest to the longest: "" is for ever."""


def check_references(file: Configuration, domain: Domain, problems: Problems) -> None:
    """Note every reference to something that isn't there and every part that doesn't fit."""
    _identities(file, problems)
    _peers(file, domain, problems)
    _models(file, problems)
    _pools(file, problems)
    for name, tool in file.tools.items():
        check_tool(name, tool, domain.hosts, problems)
    for name, workflow in file.workflows.items():
        at: Path = ("workflows", name)
        _agents(at, workflow, file, domain, problems)
        _subject(at, workflow, file, problems)
        _aliases(at, workflow, file, problems)
        check_route(at, workflow, file.tools, problems)
        _pool(at, workflow, file, problems)
        _personal_data(at, workflow, problems)


ALIKE: Final = 0.85
"""How much a model's name must be like another that has a price, for those of a family differ in a sign or two."""


def unknown(value: str, what: str, allowed: Collection[str]) -> str:
    """Say that a name refers to nothing, and which one it is like."""
    return f"no {what} {value!r}{near(value, allowed)}; allowed: {', '.join(sorted(allowed)) or 'none is defined'}"


def near(value: str, known: Collection[str], *, least: float = 0.6, before: str = "") -> str:
    """Ask for the name that is likest, if one is like it at least so much; `before`: what stands before all of them."""
    found = difflib.get_close_matches(value, known, n=1, cutoff=least)
    return f", did you mean {before}{found[0]}?" if found else ""


def _identities(file: Configuration, problems: Problems) -> None:
    seen: set[str] = set()
    issuers: set[tuple[str, str]] = set()
    for index, entry in enumerate(file.identity):
        at: Path = ("identity", index)
        if entry.name in seen:
            problems.add((*at, "name"), f"{entry.name!r} is named twice")
        if (whose := RESERVED.get(entry.name)) is not None:
            problems.add((*at, "name"), f"{entry.name!r} is {whose} own name; allowed: another name")
        if (entry.issuer, entry.audience) in issuers:
            problems.add((*at, "issuer"), "the same issuer and audience stand in an entry before")
        seen.add(entry.name)
        issuers.add((entry.issuer, entry.audience))
    for index, operator in enumerate(file.operators):
        if operator.identity not in seen:
            problems.add(("operators", index, "identity"), unknown(operator.identity, "identity", seen))


def _peers(file: Configuration, domain: Domain, problems: Problems) -> None:
    """A peer is named in `agents` as identities are, and known by its issuer: both must mean one thing."""
    issuers: dict[str, str] = {domain.issuer: "this trust domain's own"}
    taken = RESERVED | {entry.name: "an identity's" for entry in file.identity}
    for name, peer in file.peers.items():
        if (whose := taken.get(name)) is not None:
            problems.add(("peers", name), f"{name!r} is {whose} own name; allowed: another name", key=True)
        if (owner := issuers.get(peer.issuer)) is not None:
            problems.add(("peers", name, "issuer"), f"is {owner} issuer; allowed: the other trust domain's")
        issuers[peer.issuer] = f"the peer {name}'s"


def _models(file: Configuration, problems: Problems) -> None:
    for alias, model in file.models.items():
        seen: set[tuple[str, str]] = set()
        for index, target in enumerate(model.targets):
            at: Path = ("models", alias, "targets", index)
            if target.provider not in file.providers:
                problems.add((*at, "provider"), unknown(target.provider, "provider", file.providers))
            if (target.provider, target.model) in seen:
                problems.add(at, f"'{target.provider}/{target.model}' is named twice")
            seen.add((target.provider, target.model))
        _weights(alias, model, problems)
    for name, provider in file.providers.items():
        if provider.auth.txn is not None:
            problems.add(("providers", name, "auth", "txn"), "is for tools; allowed: none, bearer, header")
    for key in file.prices:
        provider_name, _, model_name = key.partition("/")
        if not provider_name or not model_name:
            problems.add(("prices", key), f"{key!r} is not a target; allowed: PROVIDER/MODEL", key=True)


def _weights(alias: str, model: Model, problems: Problems) -> None:
    at: Path = ("models", alias, "targets")
    if model.strategy == "weighted":
        if all(target.weight == 0 for target in model.targets):
            problems.add(at, "every weight is 0; allowed: at least one above")
        return
    for index, target in enumerate(model.targets):
        if target.weight is not None:
            problems.add((*at, index, "weight"), "shares calls only under strategy: weighted")


def _agents(at: Path, workflow: Workflow, file: Configuration, domain: Domain, problems: Problems) -> None:
    workloads = [entry.name for entry in file.identity if "agent" in entry.claims]
    if domain.local_issuer:
        workloads.append(compose.LOCAL)
    for index, rule in enumerate(workflow.agents or ()):
        if rule.identity in file.peers or any(fnmatchcase(name, rule.identity) for name in workloads):
            continue
        place = (*at, "agents", index, "identity")
        if any(entry.name == rule.identity for entry in file.identity):
            problems.add(place, f"identity {rule.identity!r} maps no claim to agent; add claims: {{agent: …}} to it")
        else:
            problems.add(place, unknown(rule.identity, "identity", [*workloads, *file.peers]))


def _subject(at: Path, workflow: Workflow, file: Configuration, problems: Problems) -> None:
    if workflow.subject is None or workflow.subject.proof != "token":
        return
    proven = {entry.subject.type for entry in file.identity if entry.subject}
    for index, kind in enumerate(workflow.subject.types):
        if kind not in proven:
            what = f"no identity proves a {kind!r}; allowed: {', '.join(sorted(proven)) or 'none is proven'}"
            problems.add((*at, "subject", "types", index), what)


def _pool(at: Path, workflow: Workflow, file: Configuration, problems: Problems) -> None:
    if workflow.pool is None:
        return
    place = (*at, "pool")
    if (pool := file.pools.get(workflow.pool)) is None:
        problems.add(place, unknown(workflow.pool, "pool", file.pools))
    elif (cost := workflow.budget.cost) is None:
        problems.add(place, "a task draws its cost from the pool, so the workflow needs budget: {cost: …}")
    elif any(cost > each.cost[0] for each in (pool, *_above(pool, file))):
        problems.add(place, "one task's budget.cost is more than the pool ever holds; allowed: a smaller one")


def _pools(file: Configuration, problems: Problems) -> None:
    for name, pool in file.pools.items():
        at: Path = ("pools", name, "parent")
        if pool.parent is None:
            continue
        if (parent := file.pools.get(pool.parent)) is None:
            problems.add(at, unknown(pool.parent, "pool", file.pools))
        elif any(each is pool for each in _above(pool, file)):
            problems.add(at, "the pools are each other's parents in a ring; one of them needs none")
        elif PERIODS.index(parent.cost[1]) < PERIODS.index(pool.cost[1]):
            what = f"{pool.parent!r} is renewed each {parent.cost[1]}, sooner than this pool"
            problems.add(at, f"{what}; allowed: a parent whose period is as long or longer")


def _above(pool: Pool, file: Configuration) -> list[Pool]:
    """Give the pools above, each once, also where they stand in a ring."""
    found: list[Pool] = []
    here = file.pools.get(pool.parent or "")
    while here is not None and not any(each is here for each in found):
        found.append(here)
        here = file.pools.get(here.parent or "")
    return found


def _personal_data(at: Path, workflow: Workflow, problems: Problems) -> None:
    route = [step.tool for step in workflow.tools]
    for tool in workflow.personal_data.to_tools if workflow.personal_data else ():
        if tool not in route:
            problems.add((*at, "personal_data", "to_tools", tool), unknown(tool, "tool of this workflow", route))


def _aliases(at: Path, workflow: Workflow, file: Configuration, problems: Problems) -> None:
    for index, alias in enumerate(workflow.models):
        place = (*at, "models", index)
        if alias in workflow.models[:index]:
            problems.add(place, f"{alias!r} is named twice")
        wrong = _alias_fault(alias, file)
        if wrong:
            problems.add(place, wrong)
        elif workflow.budget.cost is not None:
            for target in _unpriced(alias, file):
                problems.add(
                    place, f"no price for {target!r}{_priced_like(target, file)}; see 'buspass models', or add prices:"
                )


def _alias_fault(alias: str, file: Configuration) -> str:
    if alias in file.models:
        return ""
    provider, slash, model = alias.partition("/")
    if not slash or not model:
        priced = [f"{name}/{alias}" for name in compose.IMPLICIT if compose.price(file, name, alias) is not None]
        return unknown(alias, "model", [*file.models, *priced, "PROVIDER/MODEL"])
    known = {*file.providers, *compose.IMPLICIT}
    if provider in known:
        return ""
    if provider in PROVIDERS:
        return f"not available yet: provider {provider!r}; allowed: {', '.join(sorted(known))}"
    return unknown(provider, "provider", known)


def _priced_like(target: str, file: Configuration) -> str:
    """Ask for the model of this provider that has a price and is likest, if one is like it."""
    provider, _, model = target.partition("/")
    api = file.providers[provider].api if provider in file.providers else provider
    own = [name.removeprefix(f"{provider}/") for name in file.prices if name.startswith(f"{provider}/")]
    known = dict.fromkeys([*own, *prices.models(provider), *prices.models(api)])
    return near(model, known, least=ALIKE, before=f"{provider}/")


def _unpriced(alias: str, file: Configuration) -> Iterator[str]:
    if alias in file.models:
        targets = [(target.provider, target.model) for target in file.models[alias].targets]
    else:
        targets = [compose.implicit_targets(file)[alias]]
    for provider, model in targets:
        known = provider in file.providers or provider in compose.IMPLICIT
        if known and compose.price(file, provider, model) is None:
            yield f"{provider}/{model}"
