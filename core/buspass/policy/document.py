"""The `input` documents that policies see, built from plain values: exactly the shape the manual promises.

Pure; times come in milliseconds since the epoch. Refuses to know where a value comes from. What does not exist (a
task without a subject) is absent, not null: in Rego `null` would count as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from buspass.config.settings import Host
from buspass.model import Principal, Subject

type Findings = Sequence[Mapping[str, Any]]


def timestamp(milliseconds: int) -> str:
    """RFC 3339 in UTC, whole seconds: such texts sort as the times do."""
    return datetime.fromtimestamp(milliseconds // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def task(
    *,
    id: str,  # noqa: A002 - the manual's name
    workflow: str,
    status: str,
    metadata: Mapping[str, Any],
    started_at: int,
    depth: int,
    principal: Principal,
    subject: Subject | None,
) -> dict[str, Any]:
    """`input.task`; `started_at` in milliseconds since the epoch."""
    acting = {"identity": principal.identity, "issuer": principal.issuer, "agent": principal.agent}
    described: dict[str, Any] = {
        "id": id,
        "workflow": workflow,
        "status": status,
        "metadata": dict(metadata),
        "started_at": timestamp(started_at),
        "depth": depth,
        "principal": {**acting, "claims": dict(principal.claims)},
    }
    if subject is not None:
        described["subject"] = {"type": subject.type, "id": subject.id, "proof": subject.proof}
    return described


def inference(
    *,
    model: str,
    stream: bool,
    tools: Sequence[str],
    size: int,
    targets: Sequence[Mapping[str, str]],
    findings: Findings = (),
) -> dict[str, Any]:
    """`input.call` of an inference; `size` in bytes, `targets` as `{name, provider, model, region}`."""
    return {
        "kind": "inference",
        "model": model,
        "stream": stream,
        "tools": list(tools),
        "bytes": size,
        "targets": [dict(target) for target in targets],
        "findings": [dict(finding) for finding in findings],
    }


def action(
    *,
    tool: str,
    method: str,
    host: str,
    path: str,
    arguments: Mapping[str, Any],
    thought: bool,
    tool_call_id: str | None,
    findings: Findings = (),
) -> dict[str, Any]:
    """`input.call` of a tool call; `host` and `path` are the service's, `thought` says whether a model asked for it."""
    described: dict[str, Any] = {
        "kind": "tool",
        "tool": tool,
        "method": method,
        "host": host,
        "path": path,
        "arguments": dict(arguments),
        "thought": thought,
        "findings": [dict(finding) for finding in findings],
    }
    return described if tool_call_id is None else {**described, "tool_call_id": tool_call_id}


def tool_history(
    *, count: int, running: int, last: str | None, kept: Sequence[tuple[Mapping[str, Any], int]]
) -> dict[str, Any]:
    """One tool's entry in `input.history.tools`; `kept` pairs facts with when they were kept (milliseconds)."""
    facts = [{**row, "at": timestamp(at)} for row, at in kept]
    described: dict[str, Any] = {"count": count, "running": running, "kept": facts}
    return described if last is None else {**described, "last": last}


def start_input(*, now: int, host: Host, task: Mapping[str, Any]) -> dict[str, Any]:
    """The input of `start` and `resume`."""
    where = {"cloud": host.cloud, "region": host.region, "name": host.name}
    return {"now": timestamp(now), "host": where, "task": dict(task)}


def call_input(
    *,
    now: int,
    host: Host,
    task: Mapping[str, Any],
    call: Mapping[str, Any],
    tools: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, int],
) -> dict[str, Any]:
    """The input of `call`; `tools` are `tool_history` entries by tool, `models` counts calls by alias."""
    counts = {alias: {"count": count} for alias, count in models.items()}
    history = {"tools": {name: dict(entry) for name, entry in tools.items()}, "models": counts}
    return {**start_input(now=now, host=host, task=task), "call": dict(call), "history": history}
