"""A model provider that speaks OpenAI's chat completions format over HTTP, whole and streaming, with a mind of yours.

Owns routes, the bearer key, the request log, faults on demand; `provider_wire` owns the format. Refuses
to know what the mind thinks, or who asks.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from buspass.testing.provider_cache import PromptCache
from buspass.testing.provider_stream import IN_STREAM, WHOLE, Fault, chunks, frame, paced
from buspass.testing.provider_wire import Mind, Refused, completion, parse, text_of

__all__ = ["Exchange", "Fault", "Provider", "echo"]


class Exchange(Struct, frozen=True, kw_only=True):
    """One request as it came, and what was answered."""

    at: float
    body: Any
    headers: Mapping[str, str]
    status: int


def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The smallest mind: says the last message again."""
    return {"content": text_of(request["messages"][-1].get("content"))}


SERVER_ERROR: Mapping[str, Any] = {
    "error": {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}
}


class Provider:
    """The provider as an ASGI application (`app`); `faults` are used up one per chat request, in order.

    `models`: what it serves. `requests`: the log, oldest first, without the bearer, of the last `kept` requests where
    that is given. `pace`: seconds between the events of a stream. `caching`: input that it has seen is told as cached.
    """

    def __init__(
        self,
        key: str,
        *,
        models: tuple[str, ...] = ("planner-1",),
        mind: Mind = echo,
        pace: float = 0,
        caching: bool = False,
        kept: int | None = None,
    ) -> None:
        self.key, self.models, self.mind, self.pace = key, models, mind, pace
        self.kept, self.cache = kept, PromptCache() if caching else None
        self.faults: deque[Fault] = deque()
        self.requests: list[Exchange] = []
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/{path:path}", self._unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    async def _chat(self, request: Request) -> Response:
        raw = await request.body()
        body: Any = None
        try:
            self._authenticate(request)
            body = parse(raw)
            answer = await self._answer(body)
        except Refused as refused:
            answer = refused.response()
        answer.headers["x-request-id"] = f"req_{secrets.token_hex(16)}"
        headers = {k: v for k, v in request.headers.items() if k != "authorization"}
        self.requests.append(Exchange(at=time.time(), body=body, headers=headers, status=answer.status_code))
        if self.kept is not None:
            del self.requests[: -self.kept]
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
            raise Refused(
                404,
                f"The model `{body['model']}` does not exist or you do not have access to it.",
                code="model_not_found",
            )
        document, headers = completion(body, self.mind), {"openai-processing-ms": "1"}
        if self.cache is not None:
            usage = document["usage"]
            usage["prompt_tokens_details"]["cached_tokens"] = min(self.cache.hit(body), usage["prompt_tokens"])
        if not body.get("stream"):
            return JSONResponse(document, headers=headers)
        frames = chunks(document, usage=bool((body.get("stream_options") or {}).get("include_usage")))
        told = paced(frames, pace=self.pace, fault=fault if in_stream else None, error=frame(SERVER_ERROR))
        return StreamingResponse(told, media_type="text/event-stream", headers=headers)

    async def _models(self, request: Request) -> Response:
        try:
            self._authenticate(request)
        except Refused as refused:
            return refused.response()
        data = [{"id": m, "object": "model", "created": 1750000000, "owned_by": "buspass"} for m in self.models]
        return JSONResponse({"object": "list", "data": data})

    async def _unknown(self, request: Request) -> Response:
        return Refused(404, f"Unknown request URL: {request.method} {request.url.path}.").response()

    def _authenticate(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode(), self.key.encode()):
            raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")


def _broken(fault: Fault) -> Response:
    match WHOLE.get(fault.kind, fault.kind):
        case "rate_limited":
            refused = Refused(429, "Rate limit reached.", code="rate_limit_exceeded", kind="requests").response()
            if fault.seconds:
                refused.headers["retry-after"] = f"{fault.seconds:g}"
            return refused
        case "overloaded":
            return Refused(529, "The engine is currently overloaded.", kind="overloaded_error").response()
        case "invalid_json":
            return Response('{"id": "chatcmpl-', 200, media_type="application/json")
        case "cut":  # fewer bytes than announced: the server closes the connection
            return Response('{"id": "chat', 200, headers={"content-length": "4096"})
        case "html":
            return Response("<html><body>Welcome to the proxy</body></html>", 200, media_type="text/html")
        case _:
            return Refused(
                500, "The server had an error while processing your request.", kind="server_error"
            ).response()
