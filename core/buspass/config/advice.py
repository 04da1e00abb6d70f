"""What is allowed and still worth a second look: unlimited cost, workflows nobody may start, times no host can keep.

Reads Settings only. Refuses to refuse: what must not be is an error, in the other modules here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from buspass.config.settings import Host, Settings, Workflow

KEPT: Final[Mapping[str, tuple[float, float]]] = {"aws": (900, 900), "azure": (225, 590), "onprem": (600, 900)}
"""Seconds that a host of each cloud has until an answer begins, and until a stream ends: its `Limits` at their most."""


def advice(settings: Settings) -> tuple[str, ...]:
    """Sentences `PATH: what`, for a person who is about to rely on this configuration."""
    return tuple(_advice(settings))


def _advice(settings: Settings) -> Iterator[str]:
    for name, workflow in settings.workflows.items():
        yield from _workflow(f"workflows.{name}", workflow, settings)
    for host in settings.hosts.values():
        if host.state.startswith("memory://"):
            yield f"hosts.{host.name}.state: memory:// forgets every task and its spending when the process ends"
        yield from _times(host, settings)
    if len(settings.hosts) > 1 and settings.domain_key is None:
        yield "domain_key: not named, so every host with a data directory of its own makes a different one"
    for pair in sorted(settings.plain_http):
        yield f"http://{pair}: not encrypted; whoever carries it can read and change it"


def _times(host: Host, settings: Settings) -> Iterator[str]:
    """Time-outs that end at this host before their time, as the host itself has less."""
    begin, whole = KEPT[host.cloud]
    for alias, model in settings.models.items():
        if model.first_token > begin:
            yield f"models.{alias}.timeout.first_token: host '{host.name}' waits {begin:g} s for an answer to begin"
        if model.total > whole:
            yield f"models.{alias}.timeout.total: host '{host.name}' ends every call after {whole:g} s"
        elif model.total > begin:
            yield f"models.{alias}.timeout.total: host '{host.name}' ends an answer that is no stream after {begin:g} s"
    for tool in settings.tools.values():
        if tool.timeout > begin and (tool.hosts is None or host.name in tool.hosts):
            yield f"tools.{tool.name}.timeout: host '{host.name}' ends a call after {begin:g} s"


def _workflow(at: str, workflow: Workflow, settings: Settings) -> Iterator[str]:
    if not workflow.agents:
        yield f"{at}.agents: nobody may start it"
    if not workflow.models and not workflow.route:
        yield f"{at}: grants neither models nor tools"
    if workflow.require_thought and not workflow.models:
        yield f"{at}.require_thought: no model is granted, so every action will be refused"
    if workflow.models and "cost" not in workflow.limits:
        yield f"{at}.budget.cost: unlimited"
        for target in _unpriced(workflow, settings):
            yield f"{at}.models: no price for '{target}', so its cost will not be counted"


def _unpriced(workflow: Workflow, settings: Settings) -> Iterator[str]:
    for alias in workflow.models:
        for target in settings.models[alias].targets:
            if target.price is None:
                yield f"{target.provider}/{target.model}"
