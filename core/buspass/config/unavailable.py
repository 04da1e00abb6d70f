"""What buspass.yaml can say that is not built yet: one table, so that nothing of it is ever ignored in silence.

A row is a path (`*` for any name or index), the sentence, and the values that do work already (URL schemes end in
`://`). Building a thing is deleting its row. Knows no schema: it looks at what the file says, not at defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct

from buspass.config.document import Path


class Row(Struct, frozen=True):
    """`path` is refused with `what`, unless its value is one of `built`."""

    path: str
    what: str
    built: tuple[str, ...] = ()


TABLE: Final = (
    Row("queue", "this queue", ("sqlite://",)),
    Row("hosts.*.queue", "this queue", ("sqlite://",)),
    Row("providers.*.api", "this wire format", ("openai", "anthropic")),
    Row("providers.*.auth.oauth2", "auth: oauth2"),
    Row("providers.*.auth.aws", "auth: aws"),
    Row("providers.*.auth.azure", "auth: azure"),
    Row("providers.*.auth.mtls", "auth: mtls"),
    Row("models.*.strategy", "this strategy", ("priority", "weighted")),
    Row("models.*.targets.*.canary", "canaries"),
    Row("models.*.shadow", "shadow calls"),
    Row("models.*.hedge", "hedged calls"),
    Row("models.*.cache", "cached answers"),
    Row("tools.*.openapi", "tools from an OpenAPI document"),
    Row("tools.*.mcp", "tools of an MCP server"),
    Row("tools.*.sql", "SQL tools"),
    Row("tools.*.auth.oauth2", "auth: oauth2"),
    Row("tools.*.auth.aws", "auth: aws"),
    Row("tools.*.auth.azure", "auth: azure"),
    Row("tools.*.auth.mtls", "auth: mtls"),
    Row("tools.*.mode", "queued tools", ("direct",)),
    Row("tools.*.approval", "approvals"),
    Row("workflows.*.hosted_tools", "tools that a provider runs itself"),
    Row("workflows.*.data_residency", "data residency"),
    Row("inspectors", "inspectors"),
    Row("webhooks.*.on.*", "messages of approvals", ("soft_limit", "killed", "breaker")),
    Row("telemetry", "telemetry"),
    Row("policy.engine", "this policy engine", ("embedded", "opa")),
)

PROVIDERS: Final = ("azure", "bedrock")
"""Providers that an alias `PROVIDER/MODEL` will bring with it one day."""


def refusals(data: Any) -> Iterator[tuple[Path, str]]:
    """Yield the path and the sentence of everything that `data`, a schema-valid document, asks for in vain."""
    for row in TABLE:
        for path, value in _matches(data, row.path.split("."), ()):
            if not _works(value, row.built):
                allowed = f"; allowed: {', '.join(row.built)}" if row.built else ""
                yield path, f"not available yet: {row.what}{allowed}"


def _matches(data: Any, parts: list[str], path: Path) -> Iterator[tuple[Path, Any]]:
    if not parts:
        yield path, data
        return
    head, rest = parts[0], parts[1:]
    if isinstance(data, dict):
        names = list(data) if head == "*" else [head] if head in data else []
        for name in names:
            yield from _matches(data[name], rest, (*path, name))
    elif isinstance(data, list) and head == "*":
        for index, item in enumerate(data):
            yield from _matches(item, rest, (*path, index))


def _works(value: Any, built: tuple[str, ...]) -> bool:
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value))
    return isinstance(value, str) and any(
        value == each or (each.endswith("://") and value.startswith(each)) for each in built
    )
