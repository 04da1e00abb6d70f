"""Models, tools and actions: `/v1/chat/completions`, `/v1/models`, `/v1/tools…`, `/v1/actions…`."""

from __future__ import annotations

import json
from typing import Final

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from buspass.callers import caller
from buspass.calls.call import Incoming
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.gateway import Gateway
from buspass.guard import check_standing
from buspass.http.exchange import BODY_BYTES, Flowing, answer, bearer, body, idempotency_key, labels, log_level, session
from buspass.reading import Reading
from buspass.standing import claims_of
from buspass.surfaces import anthropic_messages, openai_chat
from buspass.tasks import View
from buspass.tools import catalog
from buspass.tools.schema import parse_json

BYTES_A_TOKEN: Final = 3
PER_MESSAGE: Final = 8
"""How `count_tokens` estimates: on the high side of what English and code come to (4 bytes a token)."""
MARGIN: Final = 1.0
"""Seconds that a host keeps to settle and to answer before it is cut off."""


class CallRoutes:
    """Handlers of the sections Models and Tools."""

    def __init__(self, house: House, gateway: Gateway, reading: Reading) -> None:
        self._house = house
        self._gateway = gateway
        self._reading = reading

    async def chat(self, request: Request) -> Response:
        """Infer, in OpenAI's wire format; Azure's clients name the model in the path."""
        incoming = await self._incoming(request, self._house.limits.request_bytes)
        if alias := request.path_params.get("alias"):
            incoming = replace(incoming, body=_with_model(incoming.body, str(alias)))
        return await self._infer(incoming)

    async def azure_chat(self, request: Request) -> Response:
        """Infer at the path of Azure's v1 API."""
        return await self.chat(request)

    async def azure_deployment(self, request: Request) -> Response:
        """Infer at the path of Azure's older API, which names the deployment."""
        return await self.chat(request)

    async def messages(self, request: Request) -> Response:
        """Infer, in Anthropic's wire format."""
        incoming = await self._incoming(request, self._house.limits.request_bytes)
        return await self._infer(replace(incoming, surface=anthropic_messages.NAME, headers=dict(request.headers)))

    async def _infer(self, incoming: Incoming) -> Response:
        reply = await self._gateway.infer(incoming)
        if reply.stream is not None:
            return Flowing(reply.stream, reply.headers)
        return answer(reply.document, reply.status, reply.headers)

    async def count(self, request: Request) -> Response:
        """Estimate a request's input tokens: nothing is sent, and nothing spent."""
        view = await self._own(request)
        data = await body(request, self._house.limits.request_bytes)
        ask = anthropic_messages.parse_count(parse_json(data, limit=len(data) + 1), headers=dict(request.headers))
        if ask.model not in view.task.grant.models:
            raise Problem("model_not_granted", f"model {ask.model!r} is not granted to this task")
        return answer(
            anthropic_messages.render_count(-(-ask.input_bytes // BYTES_A_TOKEN) + PER_MESSAGE * ask.messages)
        )

    async def act(self, request: Request) -> Response:
        """Call a tool."""
        incoming = await self._incoming(request, BODY_BYTES, str(request.path_params["name"]))
        reply = await self._gateway.act(incoming)
        return answer(reply.document, reply.status, reply.headers)

    async def models(self, request: Request) -> Response:
        """List the aliases of the grant."""
        view = await self._own(request)
        surface = anthropic_messages if "anthropic-version" in request.headers else openai_chat
        return answer(surface.models(view.task.grant.models))

    async def tools(self, request: Request) -> Response:
        """List the tools of the grant, each with the address to call it at."""
        house = self._house
        view = await self._own(request)
        workflow = house.workflow(view.task.workflow)
        route = {name: step for name, step in workflow.route.items() if name in view.task.grant.named}
        settings = house.settings
        return answer({"data": catalog.functions(route, settings.tools, settings.hosts, house.host.name)})

    async def actions(self, request: Request) -> Response:
        """List a task's actions."""
        who = await caller(self._house, bearer(request), session(request))
        return answer(await self._reading.actions(who, request.query_params.get("status")))

    async def action(self, request: Request) -> Response:
        """Give one action."""
        who = await caller(self._house, bearer(request), session(request))
        return answer(await self._reading.action(who, str(request.path_params["id"])))

    async def _own(self, request: Request) -> View:
        """Give the task of this task token, read anew: a kill makes all its tokens useless at once."""
        claims = await claims_of(self._house, bearer(request), session(request))
        view = await self._house.tasks.look(claims.task)
        check_standing(view.head, claims.fence, self._house.clock.now())
        return view

    async def _incoming(self, request: Request, most: int, name: str = "") -> Incoming:
        limits = self._house.limits
        flowing = min(limits.total, request.scope.get("extensions", {}).get("buspass.deadline", limits.total)) - MARGIN
        seconds = min(flowing, limits.first_byte - MARGIN)
        if seconds <= 0:
            raise Problem("deadline_exceeded", "no time is left at this host to carry out the call")
        return Incoming(
            token=bearer(request),
            session=session(request),
            body=await body(request, most),
            flowing=flowing,
            seconds=seconds,
            name=name,
            key=idempotency_key(request),
            log=log_level(request),
            labels=labels(request),
            traceparent=request.headers.get("traceparent"),
        )


def _with_model(data: bytes, alias: str) -> bytes:
    """Put the model that the path names into a body; what is no good is left as it is, for the parser to refuse."""
    try:
        value = parse_json(data, limit=len(data))
    except Problem:
        return data
    return json.dumps({**value, "model": alias}).encode() if isinstance(value, dict) else data
