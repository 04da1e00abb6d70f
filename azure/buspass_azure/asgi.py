"""A request that the Functions host has forwarded, as the client sent it.

Owns what the host writes on the way: the invocation's id, and where the request came from in `x-forwarded-for` and
`x-forwarded-proto`. Refuses to know how a request arrives and what answers it.
Source: https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from buspass_azure.http_stream import INVOCATION_HEADER


def to_scope(scope: Mapping[str, Any]) -> dict[str, Any]:
    """The application's ASGI `http` scope, from the one of the worker's server."""
    headers = [pair for pair in scope["headers"] if pair[0] != INVOCATION_HEADER.encode()]
    sent = {name: value.decode("latin-1") for name, value in headers}
    secure = sent.get(b"x-forwarded-proto", "https").rpartition(",")[2].strip() != "http"
    host, _, port = sent.get(b"host", "").rpartition(":")
    if not port.isdecimal():
        host, port = sent.get(b"host", ""), "443" if secure else "80"
    return {
        **scope,
        "scheme": "https" if secure else "http",
        "headers": headers,
        "client": _client(sent.get(b"x-forwarded-for", "")),
        "server": (host, int(port)),
        "extensions": {},
    }


def _client(forwarded: str) -> tuple[str, int] | None:
    """The last entry is the platform's own; those before it are what the client wrote."""
    address = forwarded.rpartition(",")[2].strip()
    if not address:
        return None
    if address.count(":") == 1 or address.startswith("["):
        host, _, port = address.rpartition(":") if not address.endswith("]") else (address, "", "")
        return host.strip("[]"), int(port) if port.isdecimal() else 0
    return address, 0
