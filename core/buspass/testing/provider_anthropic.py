"""A model provider that speaks Anthropic's messages format over HTTP, whole and streaming, with a mind of yours.

Owns routes, the key, the request log, faults on demand; `provider_anthropic_wire` owns the format. Refuses to know what
the mind thinks, or who asks.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from buspass.testing.provider import Exchange
from buspass.testing.provider_anthropic_wire import Refused, input_tokens, message, parse
from buspass.testing.provider_stream import IN_STREAM, WHOLE, Fault, events, frame, paced
from buspass.testing.provider_wire import Mind, text_of

__all__ = ["AnthropicProvider", "echo"]

OVERLOADED: Mapping[str, Any] = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The smallest mind: says the last message again."""
    return {"content": text_of(request["messages"][-1].get("content"))}


class AnthropicProvider:
    """The provider as an ASGI application (`app`); `faults` are used up one per message request, in order.

    `mind` gets the body as it came; besides `content` and `tool_calls` it may give `thinking`. `models`: what it
    serves. `requests`: the log, oldest first, without the key. `pace`: seconds between the events of a stream.
    """

    def __init__(
        self, key: str, *, models: tuple[str, ...] = ("claude-planner-1",), mind: Mind = echo, pace: float = 0
    ) -> None:
        self.key, self.models, self.mind, self.pace = key, models, mind, pace
        self.faults: deque[Fault] = deque()
        self.requests: list[Exchange] = []
        self.app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/{path:path}", self._unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    async def _messages(self, request: Request) -> Response:
        raw = await request.body()
        body: Any = None
        try:
            self._authenticate(request)
            body = parse(raw, sampling=request.headers["anthropic-version"] == "2023-06-01")
            answer = await self._answer(body)
        except Refused as refused:
            answer = refused.response()
        return self._log(request, body, answer)

    async def _count(self, request: Request) -> Response:
        raw = await request.body()
        body: Any = None
        try:
            self._authenticate(request)
            body = parse(raw, counting=True)
            answer: Response = JSONResponse({"input_tokens": input_tokens(body)})
        except Refused as refused:
            answer = refused.response()
        return self._log(request, body, answer)

    def _log(self, request: Request, body: Any, answer: Response) -> Response:
        answer.headers["request-id"] = f"req_{secrets.token_hex(12)}"
        headers = {k: v for k, v in request.headers.items() if k not in {"authorization", "x-api-key"}}
        self.requests.append(Exchange(at=time.time(), body=body, headers=headers, status=answer.status_code))
        return answer

    async def _answer(self, body: dict[str, Any]) -> Response:
        fault = self.faults.popleft() if self.faults else None
        in_stream = bool(body.get("stream")) and fault is not None and fault.kind in IN_STREAM
        if fault is not None and not in_stream:
            if WHOLE.get(fault.kind, fault.kind) == "slow":
                await asyncio.sleep(fault.seconds)
            else:
                return _broken(fault)
        if body["model"] not in self.models:
            raise Refused(404, "not_found_error", f"model: {body['model']}")
        document = message(body, self.mind)
        if not body.get("stream"):
            return JSONResponse(document)
        error = frame(OVERLOADED, "error")
        told = paced(events(document), pace=self.pace, fault=fault if in_stream else None, error=error)
        return StreamingResponse(told, media_type="text/event-stream")

    async def _models(self, request: Request) -> Response:
        try:
            self._authenticate(request)
        except Refused as refused:
            return refused.response()
        when = "2026-01-01T00:00:00Z"
        data = [
            {"type": "model", "id": m, "display_name": m, "created_at": when, "lifecycle": "active"}
            for m in self.models
        ]
        return JSONResponse({"data": data, "has_more": False, "first_id": self.models[0], "last_id": self.models[-1]})

    async def _unknown(self, request: Request) -> Response:
        return Refused(404, "not_found_error", f"Not found: {request.url.path}").response()

    def _authenticate(self, request: Request) -> None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        key = request.headers.get("x-api-key") or bearer
        if not hmac.compare_digest(key.encode(), self.key.encode()):
            raise Refused(401, "authentication_error", "invalid x-api-key")
        if request.headers.get("anthropic-version") not in {"2023-06-01", "2026-10-21"}:
            raise Refused(400, "invalid_request_error", "anthropic-version: header is required")


def _broken(fault: Fault) -> Response:
    match WHOLE.get(fault.kind, fault.kind):
        case "rate_limited":
            refused = Refused(429, "rate_limit_error", "This request would exceed your rate limit.").response()
            if fault.seconds:
                refused.headers["retry-after"] = f"{fault.seconds:g}"
            return refused
        case "overloaded":
            return JSONResponse(OVERLOADED, 529)
        case "invalid_json":
            return Response('{"id": "msg_', 200, media_type="application/json")
        case "cut":  # fewer bytes than announced: the server closes the connection
            return Response('{"id": "msg', 200, headers={"content-length": "4096"})
        case "html":
            return Response("<html><body>Welcome to the proxy</body></html>", 200, media_type="text/html")
        case _:
            return Refused(500, "api_error", "Internal server error").response()
