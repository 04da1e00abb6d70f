"""Which tools a task may call, and where: the list an agent gets, and the refusal for everything else.

Pure. Refuses to know who asks, what was called before, and how a tool is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from buspass.config.settings import Host, Step, Tool
from buspass.errors import Problem
from buspass.tools.schema import closed

NAMED: Final = 128
"""Characters of an unknown tool's name that a refusal repeats."""


def functions(
    route: Mapping[str, Step], tools: Mapping[str, Tool], hosts: Mapping[str, Host], this_host: str
) -> list[dict[str, Any]]:
    """`data` of `GET /v1/tools`, in the route's order: OpenAI's function shape and the URL to call it at."""
    return [_function(tools[name], hosts[_served_at(tools[name], this_host)]) for name in route]


def _function(tool: Tool, host: Host) -> dict[str, Any]:
    described = {"name": tool.name, "description": tool.description, "parameters": closed(tool.input)}
    return {"type": "function", "function": described, "url": url(host, tool.name)}


def url(host: Host, name: str) -> str:
    """Where a host takes calls of a tool."""
    return f"{host.url.rstrip('/')}/v1/tools/{name}"


def _served_at(tool: Tool, this_host: str) -> str:
    """This host if it may, else the first that is named."""
    if tool.hosts is None or this_host in tool.hosts:
        return this_host
    return tool.hosts[0]


def granted(
    name: str,
    route: Mapping[str, Step],
    tools: Mapping[str, Tool],
    hosts: Mapping[str, Host],
    this_host: str,
) -> Problem | None:
    """`tool_not_granted`, naming the tools of the route, or the host where this one is served; None if it may go on."""
    if name not in route:
        allowed = sorted(route)
        listed = ", ".join(allowed) or "none"
        row = {"path": "/tool", "message": "is not in the route", "allowed": allowed}
        detail = f"tool {name[:NAMED]!r} is not granted; this task has: {listed}"
        return Problem("tool_not_granted", detail, errors=[row], wanted=name[:NAMED])
    return elsewhere(name, tools, hosts, this_host)


def elsewhere(name: str, tools: Mapping[str, Tool], hosts: Mapping[str, Host], this_host: str) -> Problem | None:
    """`tool_not_granted`, naming the host where this tool is served; None if it is here."""
    tool = tools[name]
    host = _served_at(tool, this_host)
    if host == this_host:
        return None
    where = url(hosts[host], name)
    row = {"path": "/host", "message": "does not serve this tool", "allowed": list(tool.hosts or ())}
    detail = f"tool {name!r} is not called at host {this_host!r}; call it at {host!r}: POST {where}"
    return Problem("tool_not_granted", detail, errors=[row], url=where)
