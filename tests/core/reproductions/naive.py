"""Small gateways of the designs that the threads report, so that a test which passes with us is seen to fail there.

They keep their counters in this process's memory and charge when the answer is there. Each class says which thread
describes it; nothing of those projects' code is in here. Their surface is the one that the tests call: a session is
the bearer, `GET /v1/tasks/{session}` says what is spent and held.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from buspass.ports.outbound import Outbound
from buspass.ports.outbound import Request as Sent

UPSTREAM = {"item": "items/1", "run_tests": "checks", "deploy": "pay"}


class ChargesAfter:
    """Compares what was spent with the limit, asks, and adds the cost when the answer is there (BerriAI/litellm#34732).

    The counters are this replica's own (maximhq/bifrost#3547). `enrolled` false: a session has a limit only from the
    first cost on that is recorded for it (BerriAI/litellm#40095). Models cost micro-dollars, a tool 1; a tool's call is
    looked at before and counted after it, as a framework's hook does (gethelio/helio#14).
    """

    def __init__(self, outbound: Outbound, key: str, limit: int, *, enrolled: bool = True) -> None:
        self.outbound, self.key, self.limit, self.enrolled = outbound, key, limit, enrolled
        self.spent: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self._routes = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/tools/{name}", self._tool, methods=["POST"]),
                Route("/v1/tasks/{session}", self._read),
            ]
        )

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """With this version of the protocol Starlette cancels a stream whose client is gone, as most servers do."""
        await self._routes({**scope, "asgi": {"version": "3.0", "spec_version": "2.3"}}, receive, send)

    def admits(self, session: str) -> bool:
        if not self.enrolled and session not in self.spent:
            return True
        return self.spent[session] < self.limit

    async def _chat(self, request: Request) -> Response:
        session = _session(request)
        if not self.admits(session):
            return _refused("budget exceeded")
        answer = await self.outbound.send(self._asked("9001", await request.body()))
        if answer.status == 200:
            self.spent[session] += micro_dollars(json.loads(answer.body))
        return Response(answer.body, answer.status, media_type="application/json")

    async def _tool(self, request: Request) -> Response:
        session, name = _session(request), request.path_params["name"]
        if not self.admits(session):
            return _refused("budget exceeded")
        answer = await self._act(name, (await request.json())["arguments"])
        self.spent[session] += 1
        return answer

    async def _act(self, name: str, arguments: Mapping[str, Any]) -> Response:
        method = "GET" if name == "item" else "POST"
        answer = await self.outbound.send(
            self._sent("9002", UPSTREAM[name], json.dumps(arguments).encode(), method=method)
        )
        return Response(answer.body, answer.status, media_type="application/json")

    async def _read(self, request: Request) -> Response:
        session = request.path_params["session"]
        spent, held = self.spent[session], self.held[session]
        return JSONResponse({"budget": {"spent": {"cost": spent / 1e6}, "held": {"cost": held / 1e6}}})

    def _asked(self, port: str, body: bytes) -> Sent:
        asked = {**json.loads(body), "model": "planner-1", "max_completion_tokens": 100}
        if asked.get("stream"):
            asked["stream_options"] = {"include_usage": True}
        return self._sent(port, "v1/chat/completions", json.dumps(asked).encode())

    def _sent(self, port: str, path: str, body: bytes, method: str = "POST") -> Sent:
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        return Sent(method=method, url=f"http://127.0.0.1:{port}/{path}", headers=headers, body=body, timeout=30)


class Borrows(ChargesAfter):
    """Reserves `estimate` micro-dollars first, and gives them back where a call ends well, but on no other path.

    So does the reservation of BerriAI/litellm#27639 on some of its ends, and tensorzero/tensorzero#3751 before its
    change on a stream whose client is gone.
    """

    estimate = 1400

    async def _chat(self, request: Request) -> Response:
        session, body = _session(request), await request.body()
        if self.spent[session] + self.held[session] + self.estimate > self.limit:
            return _refused("budget exceeded")
        self.held[session] += self.estimate
        if json.loads(body).get("stream"):
            return StreamingResponse(self._relayed(session, body), media_type="text/event-stream")
        answer = await self.outbound.send(self._asked("9001", body))
        if answer.status == 200:
            self.held[session] -= self.estimate
            self.spent[session] += micro_dollars(json.loads(answer.body))
        return Response(answer.body, answer.status, media_type="application/json")

    async def _relayed(self, session: str, body: bytes) -> AsyncIterator[bytes]:
        streamed = await self.outbound.open(self._asked("9003", body))
        last = b""
        async for piece in streamed.chunks:
            last = piece if b'"usage":{' in piece else last
            yield piece
        self.held[session] -= self.estimate
        self.spent[session] += micro_dollars(json.loads(last.partition(b"data: ")[2]))


class Remembers(ChargesAfter):
    """Lets a dependent call through once its prerequisite stands in the session's history, and denies it otherwise.

    `event`: when a call is noted, with its `response` or with its `request`. The rule of "Temporal Policies in
    AgentCore: 98 Denied Deploys and a 409 That Never Came" reads responses.
    """

    def __init__(self, outbound: Outbound, key: str, after: Mapping[str, str], *, event: str) -> None:
        super().__init__(outbound, key, 1_000_000)
        self.after, self.event = after, event
        self.history: set[tuple[str, str]] = set()

    async def _tool(self, request: Request) -> Response:
        session, name = _session(request), request.path_params["name"]
        needed = self.after.get(name)
        if needed is not None and (session, needed) not in self.history:
            return JSONResponse({"code": "denied"}, 403)
        if self.event == "request":
            self.history.add((session, name))
        answer = await self._act(name, (await request.json())["arguments"])
        self.history.add((session, name))
        return answer


def micro_dollars(completion: Mapping[str, Any]) -> int:
    """What an answer of the simulated provider costs, at 1 dollar a million of input and 10 of output."""
    return int(completion["usage"]["prompt_tokens"]) + 10 * int(completion["usage"]["completion_tokens"])


def _session(request: Request) -> str:
    return request.headers["authorization"].removeprefix("Bearer ")


def _refused(why: str) -> Response:
    return JSONResponse({"error": {"code": "budget_exhausted", "message": why}}, 429)
