"""What is allowed and still worth a second look: unlimited cost, workflows nobody may start, stores that forget.

Reads Settings only. Refuses to refuse: what must not be is an error, in the other modules here.
"""

from __future__ import annotations

from collections.abc import Iterator

from buspass.config.settings import Settings, Workflow


def advice(settings: Settings) -> tuple[str, ...]:
    """Sentences `PATH: what`, for a person who is about to rely on this configuration."""
    return tuple(_advice(settings))


def _advice(settings: Settings) -> Iterator[str]:
    for name, workflow in settings.workflows.items():
        yield from _workflow(f"workflows.{name}", workflow, settings)
    for host in settings.hosts.values():
        if host.state.startswith("memory://"):
            yield f"hosts.{host.name}.state: memory:// forgets every task and its spending when the process ends"
    if len(settings.hosts) > 1 and settings.domain_key is None:
        yield "domain_key: not named, so every host with a data directory of its own makes a different one"
    for pair in sorted(settings.plain_http):
        yield f"http://{pair}: not encrypted; whoever carries it can read and change it"


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
