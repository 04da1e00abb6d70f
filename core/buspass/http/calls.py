"""Models, tools and actions: `/v1/chat/completions`, `/v1/models`, `/v1/tools…`, `/v1/actions…`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from buspass.callers import caller, claims_of
from buspass.calls.call import Incoming, Reply
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.gateway import Gateway
from buspass.guard import check_standing
from buspass.http.asgi import Request, Response, Told
from buspass.http.exchange import (
    BODY_BYTES,
    Flowing,
    answer,
    at_hand,
    bearer,
    body,
    idempotency_key,
    labels,
    log_level,
    session,
)
from buspass.http.sections import Sections
from buspass.model import Limits
from buspass.surfaces import anthropic_messages, openai_chat
from buspass.tasks import View
from buspass.tools import catalog
from buspass.tools.schema import parse_json

BYTES_A_TOKEN: Final = 3
PER_MESSAGE: Final = 8
"""How `count_tokens` estimates: on the high side of what English and code come to (4 bytes a token)."""
OPTIONS: Final = frozenset(
    {b"buspass-session", b"idempotency-key", b"buspass-log", b"buspass-metadata", b"traceparent"}
)
"""Headers that say how a call is to be made."""
ACTIONS: Final = ("dispatching", "sweeping", "succeeded", "failed", "unknown", "void")
"""Every status of an action: a misspelt one must not look as if nothing had been sent."""
VERSIONED: Final = (b"anthropic-version", b"anthropic-beta")
MARGIN: Final = 1.0
"""Seconds that a host keeps to settle and to answer before it is cut off."""


class CallRoutes:
    """Handlers of the sections Models and Tools."""

    def __init__(self, house: House, gateway: Gateway, sections: Sections) -> None:
        self._house = house
        self._gateway = gateway
        self._sections = sections
        self._usual = _left(house.limits, None)

    async def chat(self, request: Request) -> Told:
        """Infer, in OpenAI's wire format."""
        return _said(await self._gateway.infer(await self._incoming(request, self._house.limits.request_bytes)))

    async def azure_chat(self, request: Request) -> Told:
        """Infer at the path of Azure's v1 API."""
        return await self.chat(request)

    async def azure_deployment(self, request: Request) -> Told:
        """Infer at the path of Azure's older API, whose clients name the model there."""
        incoming = await self._incoming(request, self._house.limits.request_bytes)
        return _said(
            await self._gateway.infer(replace(incoming, body=_with_model(incoming.body, request.named["alias"])))
        )

    async def messages(self, request: Request) -> Told:
        """Infer, in Anthropic's wire format."""
        incoming = await self._incoming(request, self._house.limits.request_bytes)
        incoming = replace(incoming, surface=anthropic_messages.NAME, headers=_versions(request))
        return _said(await self._gateway.infer(incoming))

    async def count(self, request: Request) -> Response:
        """Estimate a request's input tokens: nothing is sent, and nothing spent."""
        view = await self._own(request)
        data = await body(request, self._house.limits.request_bytes)
        ask = anthropic_messages.parse_count(parse_json(data, limit=len(data) + 1), headers=_versions(request))
        if ask.model not in view.task.grant.models:
            raise Problem("model_not_granted", f"model {ask.model!r} is not granted to this task")
        return answer(
            anthropic_messages.render_count(-(-ask.input_bytes // BYTES_A_TOKEN) + PER_MESSAGE * ask.messages)
        )

    async def act(self, request: Request) -> Response:
        """Call a tool."""
        incoming = await self._incoming(request, BODY_BYTES, request.named["name"])
        reply = await self._gateway.act(incoming)
        return answer(reply.document, reply.status, reply.headers)

    async def models(self, request: Request) -> Response:
        """List the aliases of the grant."""
        view = await self._own(request)
        page, more = _page(view.task.grant.models, request.query)
        if b"anthropic-version" in request.headers:
            return answer(anthropic_messages.models(page, more=more))
        return answer(openai_chat.models(page))

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
        status = request.query.get("status")
        if status not in (None, *ACTIONS):
            raise Problem("invalid_request", f"status is one of {', '.join(ACTIONS)}")
        return answer(await self._sections.reading.actions(who, status))

    async def action(self, request: Request) -> Response:
        """Give one action."""
        who = await caller(self._house, bearer(request), session(request))
        return answer(await self._sections.reading.action(who, request.named["id"]))

    async def _own(self, request: Request) -> View:
        """Give the task of this task token, read anew: a kill makes all its tokens useless at once."""
        claims = await claims_of(self._house, bearer(request), session(request))
        view = await self._house.tasks.look(claims.task)
        check_standing(view.head, claims.fence, self._house.clock.now())
        return view

    async def _incoming(self, request: Request, most: int, name: str = "") -> Incoming:
        flowing, seconds = self._usual
        if "extensions" in request.scope:
            flowing, seconds = _left(self._house.limits, request.scope["extensions"].get("buspass.deadline"))
        if seconds <= 0:
            raise Problem("deadline_exceeded", "no time is left at this host to carry out the call")
        token, data = bearer(request), at_hand(request, most)
        if data is None:
            data = await body(request, most)
        if OPTIONS.isdisjoint(request.headers):  # nearly always
            return Incoming(token=token, body=data, flowing=flowing, seconds=seconds, name=name)
        return Incoming(
            token=token,
            session=session(request),
            body=data,
            flowing=flowing,
            seconds=seconds,
            name=name,
            key=idempotency_key(request),
            log=log_level(request),
            labels=labels(request),
            traceparent=request.header(b"traceparent") or None,
        )


def _left(limits: Limits, deadline: float | None) -> tuple[float, float]:
    """Give the seconds until a stream's end and until an answer's beginning; `deadline`: those that the host has."""
    flowing = (limits.total if deadline is None else min(limits.total, deadline)) - MARGIN
    return flowing, min(flowing, limits.first_byte - MARGIN)


def _page(models: Sequence[str], query: Mapping[str, str]) -> tuple[Sequence[str], bool]:
    """Give those that Anthropic's paging asks for, and whether more lie in its direction. Raises Problem."""
    after, before, limit = query.get("after_id"), query.get("before_id"), query.get("limit")
    if limit is not None and not re.fullmatch(r"[1-9][0-9]{0,2}|1000", limit):
        raise Problem("invalid_request", "limit is a number from 1 to 1000")
    for given in (after, before):
        if given is not None and given not in models:
            raise Problem("invalid_request", f"model {given[:60]!r} is not granted: nothing stands beside it")
    first = 0 if after is None else models.index(after) + 1
    rest = models[first : None if before is None else models.index(before)]
    most = len(rest) if limit is None else int(limit)
    backwards = before is not None and after is None
    return rest[max(0, len(rest) - most) :] if backwards else rest[:most], len(rest) > most


def _said(reply: Reply) -> Told:
    if reply.stream is not None:
        return Flowing(reply.stream, reply.headers)
    return answer(reply.document, reply.status, reply.headers)


def _versions(request: Request) -> dict[str, str]:
    """Give the headers that Anthropic's format has of its own."""
    return {name.decode(): request.header(name) for name in VERSIONED if name in request.headers}


def _with_model(data: bytes, alias: str) -> bytes:
    """Put the model that the path names into a body; what is no good is left as it is, for the parser to refuse."""
    try:
        value = parse_json(data, limit=len(data))
    except Problem:
        return data
    return json.dumps({**value, "model": alias}).encode() if isinstance(value, dict) else data
