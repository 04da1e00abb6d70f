"""The routes: one table, from which the application and `/openapi.json` are made."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal

from msgspec import Struct

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.gateway import Gateway
from buspass.http.asgi import AT_HAND, Asgi, Paths, Receive, Request, Response, Scope, Send, Told, within
from buspass.http.calls import CallRoutes
from buspass.http.exchange import Envelope, Handler, answer, failed
from buspass.http.queries import Query, queried, query_of
from buspass.http.sections import Sections

type Who = Literal["anyone", "peer", "operator", "workload", "task", "task, workload or operator", "task or operator"]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One row: what is served, to whom, and what is sent (a schema's name in `openapi`)."""

    method: str
    path: str
    handler: str
    section: Literal["Tasks", "Models", "Tools", "Keys", "Stops", "Reports", "Peers", "Operation"]
    who: Who
    summary: str
    sends: str = ""
    answers: str = ""
    status: int = 200
    envelope: Envelope = "problem"


def _row(method: str, path: str, handler: str, section: Any, who: Who, summary: str, **more: Any) -> Endpoint:
    return Endpoint(method=method, path=path, handler=handler, section=section, who=who, summary=summary, **more)


TASK: Final = "/v1/tasks/{id}"
CALLS: Final = frozenset({"Models", "Tools"})
"""Sections whose requests are calls, which a cold start waits for."""
ALL: Final[Who] = "task, workload or operator"
ROUTES: Final[tuple[Endpoint, ...]] = (
    _row(
        "POST", "/v1/tasks", "start", "Tasks", "workload", "Start a task", sends="Start", answers="Started", status=201
    ),
    _row("GET", "/v1/tasks", "list", "Tasks", ALL, "List tasks, newest first", answers="TaskPage"),
    _row("GET", TASK, "show", "Tasks", ALL, "Show a task", answers="Task"),
    _row(
        "POST",
        TASK + "/tasks",
        "delegate",
        "Tasks",
        "task",
        "Start a child task",
        sends="Child",
        answers="Started",
        status=201,
    ),
    _row(
        "POST", TASK + "/resume", "resume", "Tasks", "workload", "Take a task over", sends="Reason", answers="Started"
    ),
    _row("POST", TASK + "/complete", "complete", "Tasks", ALL, "End a task well", sends="Reason", answers="Task"),
    _row("POST", TASK + "/suspend", "suspend", "Tasks", ALL, "Park a task", sends="Reason", answers="Task"),
    _row("POST", TASK + "/kill", "kill", "Tasks", ALL, "End a task now", sends="Reason", answers="Killed"),
    _row("GET", TASK + "/checkpoint", "checkpoint", "Tasks", ALL, "Read the agent's own state", answers="Any"),
    _row(
        "PUT", TASK + "/checkpoint", "save", "Tasks", "task", "Keep the agent's own state", sends="Any", answers="Saved"
    ),
    _row(
        "POST", TASK + "/thoughts", "think", "Tasks", "task", "Add a thought", sends="Thought", answers="Id", status=201
    ),
    _row("GET", TASK + "/trace", "trace", "Tasks", ALL, "Read the journal in order", answers="Trace"),
    _row("GET", TASK + "/trace/verify", "verify", "Tasks", ALL, "Prove that the journal is whole", answers="Verdict"),
    _row(
        "POST",
        "/oauth2/token",
        "token",
        "Tasks",
        "workload",
        "Renew a task token (RFC 8693), or begin a peer's child (RFC 7523)",
        sends="Form",
        answers="Token",
    ),
    _row(
        "POST",
        "/v1/chat/completions",
        "chat",
        "Models",
        "task",
        "Infer (OpenAI chat completions)",
        sends="Any",
        answers="Any",
        envelope="openai",
    ),
    *(
        _row("POST", path, handler, "Models", "task", summary, sends="Any", answers="Any", envelope="openai")
        for path, handler, summary in (
            ("/openai/v1/chat/completions", "azure_chat", "Infer (Azure OpenAI, v1 API)"),
            ("/openai/deployments/{alias:path}/chat/completions", "azure_deployment", "Infer (Azure OpenAI, by path)"),
        )
    ),
    _row(
        "POST",
        "/v1/messages",
        "messages",
        "Models",
        "task",
        "Infer (Anthropic messages)",
        sends="Any",
        answers="Any",
        envelope="anthropic",
    ),
    _row(
        "POST",
        "/v1/messages/count_tokens",
        "count",
        "Models",
        "task",
        "Estimate a request's input tokens",
        sends="Any",
        answers="Any",
        envelope="anthropic",
    ),
    _row(
        "GET",
        "/v1/models",
        "models",
        "Models",
        "task",
        "List the models of the grant",
        answers="Any",
        envelope="openai",
    ),
    _row("GET", "/v1/tools", "tools", "Tools", "task", "List the tools of the grant", answers="Tools"),
    _row("POST", "/v1/tools/{name}", "act", "Tools", "task", "Call a tool", sends="ToolCall", answers="ToolResult"),
    _row("GET", "/v1/actions", "actions", "Tools", "task", "List the task's actions", answers="Actions"),
    _row("GET", "/v1/actions/{id}", "action", "Tools", "task", "Show an action", answers="Action"),
    _row("POST", "/v1/keys", "new", "Keys", "operator", "Make a key", sends="NewKey", answers="MadeKey", status=201),
    _row("GET", "/v1/keys", "listing", "Keys", "operator", "List keys", answers="KeyPage"),
    _row(
        "POST",
        "/v1/keys/{id}/rotate",
        "rotate",
        "Keys",
        "operator",
        "Give a key a new secret",
        sends="Rotation",
        answers="MadeKey",
    ),
    _row("POST", "/v1/keys/{id}/revoke", "revoke", "Keys", "operator", "End a key", answers="Key"),
    _row("POST", "/v1/stops", "order", "Stops", "operator", "Stop", sends="NewStop", answers="Stopped", status=201),
    _row("GET", "/v1/stops", "stops", "Stops", "operator", "List the stops", answers="StopPage"),
    _row("DELETE", "/v1/stops/{id}", "lift", "Stops", "operator", "Lift a stop", answers="Stop"),
    _row(
        "POST",
        "/v1/peers/orders",
        "peer_order",
        "Peers",
        "peer",
        "Renew or end a peer's child, and state how it stands",
        sends="Order",
        answers="Stated",
    ),
    _row(
        "POST",
        "/v1/peers/statements",
        "peer_statement",
        "Peers",
        "peer",
        "Hear how a child at a peer ended",
        sends="Statement",
        answers="Heard",
    ),
    _row("GET", "/v1/spend", "spend", "Reports", "operator", "What was spent, grouped", answers="Report"),
    _row("GET", "/v1/latency", "latency", "Reports", "operator", "How long calls took, grouped", answers="Report"),
    _row(
        "GET",
        "/v1/observed/{workflow}",
        "observed",
        "Operation",
        "operator",
        "What a workflow that is only observed would refuse",
        answers="Any",
    ),
    _row("GET", "/v1/breakers", "breakers", "Operation", "operator", "List the breakers", answers="BreakerPage"),
    _row("GET", "/", "root", "Operation", "anyone", "Say that this is a gateway", answers="Any"),
    _row("GET", "/health/live", "live", "Operation", "anyone", "Is the process alive", answers="Health"),
    _row("GET", "/health/ready", "ready", "Operation", "anyone", "Can calls be governed", answers="Health"),
    _row("GET", "/.well-known/jwks.json", "jwks", "Operation", "anyone", "The domain's public keys", answers="Any"),
    _row("GET", "/.well-known/openid-configuration", "openid", "Operation", "anyone", "The issuer", answers="Any"),
    _row(
        "GET",
        "/.well-known/oauth-authorization-server",
        "authorization_server",
        "Operation",
        "anyone",
        "The authorization server (RFC 8414)",
        answers="Any",
    ),
    _row(
        "GET",
        "/.well-known/oauth-protected-resource",
        "protected_resource",
        "Operation",
        "anyone",
        "The protected resource (RFC 9728)",
        answers="Any",
    ),
    _row("GET", "/openapi.json", "describe", "Operation", "anyone", "This description", answers="Any"),
)
OPENAI_PATHS: Final = (
    "/openai",
    *(
        f"/v1/{name}"
        for name in (
            "assistants",
            "audio",
            "batches",
            "chat",
            "completions",
            "containers",
            "conversations",
            "embeddings",
            "files",
            "fine_tuning",
            "images",
            "models",
            "moderations",
            "realtime",
            "responses",
            "threads",
            "uploads",
            "vector_stores",
            "videos",
        )
    ),
)
"""Where a client is one of OpenAI's SDKs, which reads its own envelope."""


def routed(house: House, sections: Sections) -> Asgi:
    """Give the application of a host."""
    calls = CallRoutes(house, Gateway(house), sections)

    @cache
    def document() -> Mapping[str, Any]:
        from buspass.http import openapi  # noqa: PLC0415 - no cold start waits for it

        return openapi.document(ROUTES, house.settings.issuer)

    async def describe(request: Request) -> Response:  # noqa: ARG001 - a handler's signature
        return answer(document())

    def handler(row: Endpoint) -> Handler:
        if row.handler == "describe":
            return describe
        if row.section in CALLS:
            found: Handler = getattr(calls, row.handler)
            return found
        return sections.handler(row.section, row.handler)

    return _direct(_served({row: handler(row) for row in ROUTES}), sections)


def _served(handlers: Mapping[Endpoint, Handler]) -> dict[str, _Place]:
    by_path: dict[str, dict[str, Handler]] = {}
    queries: dict[str, dict[str, Query]] = {}
    for row, handler in handlers.items():
        by_path.setdefault(row.path, {})[row.method] = handler
        queries.setdefault(row.path, {})[row.method] = query_of(row.handler)
    return {path: _Place(methods, _envelope(path), queries=queries[path]) for path, methods in by_path.items()}


def _direct(served: Mapping[str, _Place], sections: Sections) -> Asgi:
    """Find what is asked for all the time by its path alone, the rest by patterns, each of which is tried in turn.

    Takes HTTP only: a WebSocket is closed at once, so that a client falls back without waiting.
    """
    plain = {path: place for path, place in served.items() if "{" not in path}
    tools, act = "/v1/tools/", served["/v1/tools/{name}"]

    @cache
    def patterns() -> Paths[_Place]:
        """Give what finds the rest, which a cold start's first call need not wait for."""
        from buspass.http.operation import UNSERVED  # noqa: PLC0415 - see above

        refused = sections.handler("Operation", "unserved")
        unserved = ((path, _Place({}, _envelope(path), refused)) for path in UNSERVED)
        return Paths([*served.items(), *unserved])

    def run(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["type"] != "http":
            return _lifespan(receive, send) if scope["type"] == "lifespan" else _closed(send)
        path = within(scope) if scope.get("root_path") else scope["path"]
        if (place := plain.get(path)) is not None:
            return place(scope, receive, send)
        if path.startswith(tools) and (name := path[len(tools) :]) and "/" not in name:
            return act({**scope, "path_params": {"name": name}}, receive, send)
        if (found := patterns().find(path)) is None:
            return _Place({}, _misplaced(path), sections.handler("Operation", "unknown"))(scope, receive, send)
        return found[0]({**scope, "path_params": found[1]}, receive, send)

    return run


def _envelope(path: str) -> Envelope:
    if path.startswith("/v1/messages"):
        return "anthropic"
    return "openai" if path.startswith(OPENAI_PATHS) else "problem"


def _misplaced(path: str) -> Envelope:
    """Give the envelope of whoever asks for what is not there: an SDK whose base URL is wrong reads its own alone."""
    from buspass.http.operation import meant  # noqa: PLC0415 - as UNSERVED

    return _envelope(meant(path) or path)


class _Place:
    """What is served at one path, by method. Every problem is a response here; `other` takes the other methods.

    `queries`: what each method's query may hold, which is seen before its handler begins.
    """

    def __init__(
        self,
        methods: Mapping[str, Handler],
        envelope: Envelope,
        other: Handler | None = None,
        *,
        queries: Mapping[str, Query] = MappingProxyType({}),
    ) -> None:
        self._handlers, self._queries = _headed(methods), _headed(queries)
        self._allowed = ", ".join(sorted(methods))
        self._envelope = envelope
        self._other = other or self._unknown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer: Told
        try:
            if scope.get("query_string") and (allowed := self._queries.get(scope["method"])) is not None:
                queried(request, allowed)
            answer = await self._handlers.get(scope["method"], self._other)(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a response
            answer = failed(request, error, self._envelope)
        if AT_HAND in scope and type(answer) is Response:
            scope[AT_HAND].answer(answer.status, answer.lines(), answer.body)
        else:
            await answer(receive, send)

    async def _unknown(self, request: Request) -> Response:
        allowed = self._allowed
        problem = Problem("http_method", f"{request.method[:20]} is not known here; {allowed} is", allowed=allowed)
        problem.headers = {"allow": allowed}
        raise problem


def _headed[T](by_method: Mapping[str, T]) -> dict[str, T]:
    """Give the same, HEAD as GET."""
    return {"HEAD": by_method["GET"], **by_method} if "GET" in by_method else dict(by_method)


async def _closed(send: Send) -> None:
    await send({"type": "websocket.close", "code": 1003})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


__all__ = ["ROUTES", "Endpoint", "routed"]
