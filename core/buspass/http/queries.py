"""What a query may hold, route by route: one table, which requests are held to and `/openapi.json` tells of.

A parameter that nobody reads is refused, as an unknown field of a body is: a misspelt filter must not look as if it had
been heeded. Refuses to know what a parameter means.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from buspass.errors import Problem
from buspass.http.asgi import Request

type Query = tuple[str, ...] | None
"""The parameters that a query may hold; None where it may hold any, for none is read."""

PAGE: Final = ("limit", "cursor")
REPORT: Final = ("group_by", "from", "to", "format")
QUERIES: Final[Mapping[str, Query]] = {
    "list": ("status", "workflow", *PAGE),
    "trace": PAGE,
    "actions": ("status",),
    "listing": PAGE,
    "stops": ("lifted",),
    "lift": ("reason",),
    "spend": REPORT,
    "latency": REPORT,
    "observed": ("days",),
    # Anthropic's first three are read; its `beta` and Azure's `api-version` name editions of APIs that are not ours.
    "models": ("limit", "after_id", "before_id", "beta", "api-version"),
    # Clients of others' APIs send some of their own.
    **dict.fromkeys(("chat", "azure_chat", "azure_deployment", "messages", "count"), None),
    # RFC 6749 passes over what it does not know; probes and caches add something against each other.
    **dict.fromkeys(("token", "root", "live", "ready", "jwks", "openid"), None),
    **dict.fromkeys(("authorization_server", "protected_resource", "describe"), None),
}
"""By the name of a route's handler; one that does not stand here takes no query."""


def query_of(handler: str) -> Query:
    """Give what a route's query may hold."""
    return QUERIES.get(handler, ())


def queried(request: Request, allowed: Collection[str]) -> None:
    """See that the query holds nothing else. Raises Problem invalid_request."""
    if unknown := request.query.keys() - set(allowed):
        known = ", ".join(allowed) or "none"
        raise Problem("invalid_request", f"unknown query parameter {min(unknown)[:40]!r}; allowed: {known}")
