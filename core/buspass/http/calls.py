"""Models, tools and actions: `/v1/chat/completions`, `/v1/models`, `/v1/tools…`, `/v1/actions…`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from buspass.callers import caller
from buspass.calls.call import Incoming
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.gateway import Gateway
from buspass.guard import check_standing
from buspass.http.exchange import BODY_BYTES, answer, bearer, body, idempotency_key, labels, log_level
from buspass.reading import Reading
from buspass.surfaces import openai_chat
from buspass.tasks import View
from buspass.tools import catalog

MARGIN = 1.0
"""Seconds that a host keeps to settle and to answer before it is cut off."""


class CallRoutes:
    """Handlers of the sections Models and Tools."""

    def __init__(self, house: House, gateway: Gateway, reading: Reading) -> None:
        self._house = house
        self._gateway = gateway
        self._reading = reading

    async def chat(self, request: Request) -> Response:
        """Infer."""
        incoming = await self._incoming(request, self._house.limits.request_bytes)
        reply = await self._gateway.infer(incoming)
        return answer(reply.document, reply.status, reply.headers)

    async def act(self, request: Request) -> Response:
        """Call a tool."""
        incoming = await self._incoming(request, BODY_BYTES, str(request.path_params["name"]))
        reply = await self._gateway.act(incoming)
        return answer(reply.document, reply.status, reply.headers)

    async def models(self, request: Request) -> Response:
        """List the aliases of the grant."""
        view = await self._own(request)
        return answer(openai_chat.models(view.task.grant.models))

    async def tools(self, request: Request) -> Response:
        """List the tools of the grant, each with the address to call it at."""
        house = self._house
        view = await self._own(request)
        workflow = house.workflow(view.task.workflow)
        route = {name: step for name, step in workflow.route.items() if name in view.task.grant.tools}
        settings = house.settings
        return answer({"data": catalog.functions(route, settings.tools, settings.hosts, house.host.name)})

    async def actions(self, request: Request) -> Response:
        """List a task's actions."""
        view = await self._own(request, alive=False)
        who = await caller(self._house, bearer(request))
        return answer(await self._reading.actions(who, view.task.id, request.query_params.get("status")))

    async def action(self, request: Request) -> Response:
        """Give one action."""
        who = await caller(self._house, bearer(request))
        return answer(await self._reading.action(who, str(request.path_params["id"])))

    async def _own(self, request: Request, *, alive: bool = True) -> View:
        """Give the task of this task token, read anew: a kill makes all its tokens useless at once."""
        claims = await self._house.tokens.verify(bearer(request))
        view = await self._house.tasks.look(claims.task)
        if alive:
            check_standing(view.head, claims.fence, self._house.clock.now())
        return view

    async def _incoming(self, request: Request, most: int, name: str = "") -> Incoming:
        left = request.scope.get("extensions", {}).get("buspass.deadline")
        limits = self._house.limits
        seconds = min(limits.first_byte, limits.total, *([left] if left is not None else [])) - MARGIN
        if seconds <= 0:
            raise Problem("deadline_exceeded", "no time is left at this host to carry out the call")
        return Incoming(
            token=bearer(request),
            body=await body(request, most),
            name=name,
            key=idempotency_key(request),
            seconds=seconds,
            log=log_level(request),
            labels=labels(request),
            traceparent=request.headers.get("traceparent"),
        )
