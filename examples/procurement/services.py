"""The services behind the tools: supply alerts, the ERP, and the vendors' marketplace with its e-mail, which fails.

Each knows its callers by their keys, notes every request, and serves all callers alike. The marketplace keeps a
timetable that begins when it is told: it answers, refuses connections, answers with a web page and status 404, and
answers again. The page's time is counted in requests, whoever sends them, so that a slow machine sees the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from procurement.world import PARTS, replied
from staging.serving import RequestLog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from buspass.testing.serve import LOOPBACK, serving

type Handler = Callable[[Request, str], Awaitable[Response]]

PAGE: Final = (Path(__file__).parent / "not_found.html").read_text("utf-8")
PAGES: Final = 200
"""Requests that are answered with the page, whoever sends them, before the marketplace works again."""
OUTAGE: Final = 90.0
"""Seconds after which it works again in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When the marketplace changes, in seconds after it began: whatever comes first of `back` and `pages` ends it."""

    refuses: float = 1.0
    page: float = 4.0
    back: float = OUTAGE
    pages: int = PAGES

    def state(self, seconds: float, pages: int) -> Literal["well", "refuses", "404 page"]:
        """What it does so many seconds after it began, having answered so many requests with the page."""
        if seconds < self.refuses or seconds >= self.back or pages >= self.pages:
            return "well"
        return "refuses" if seconds < self.page else "404 page"


class Company:
    """Who may call: `callers` by key. `log` gets every request of all services."""

    def __init__(self, callers: Mapping[str, str], log: RequestLog) -> None:
        self.callers, self.log = callers, log

    def route(self, service: str, path: str, method: str, handler: Handler) -> Route:
        async def answer(request: Request) -> Response:
            caller = self.callers.get(request.headers.get("authorization", "").removeprefix("Bearer "), "")
            response: Response = JSONResponse({"error": "unknown key"}, 401)
            if caller:
                response = await handler(request, caller)
            note = {"at": time.time(), "service": service, "caller": caller, "status": response.status_code}
            self.log.write({**note, "asked": await _asked(request)})
            return response

        return Route(path, answer, methods=[method])


async def _asked(request: Request) -> dict[str, Any]:
    return dict(request.path_params) | (await request.json() if request.method == "POST" else {})


def alerts(company: Company) -> Starlette:
    """The supply alerts, behind AWS."""

    async def handler(_: Request, __: str) -> Response:
        rows = [{"part": part.id, "quantity": part.needed, "reason": "below reorder point"} for part in PARTS.values()]
        return JSONResponse({"alerts": rows})

    return Starlette(routes=[company.route("alerts", "/alerts", "GET", handler)])


def erp(company: Company) -> Starlette:
    """Stock and orders, on-prem."""

    async def part(request: Request, _: str) -> Response:
        found = PARTS.get(request.path_params["part"])
        if found is None:
            return JSONResponse({"error": "no such part"}, 404)
        facts = {"part": found.id, "name": found.name, "stock": found.stock, "vendor": found.vendor}
        return JSONResponse({**facts, "last_price": found.last, "ceiling": found.ceiling})

    async def order(request: Request, _: str) -> Response:
        asked = await request.json()
        found = PARTS.get(asked["part"])
        if found is None or asked["price"] > found.ceiling:
            return JSONResponse({"error": "no such part, or above its ceiling"}, 422)
        return JSONResponse({"order": f"PO-{secrets.token_hex(4)}", "part": found.id}, 201)

    routes = [("/parts/{part}", "GET", part), ("/orders", "POST", order)]
    return Starlette(routes=[company.route("erp", path, method, handler) for path, method, handler in routes])


class Marketplace:
    """The vendors' e-mail, at a port of its own. `clock` and `sleep` in seconds."""

    def __init__(
        self,
        company: Company,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.timetable = Timetable()
        self.clock, self.sleep = clock, sleep
        self.began: float | None = None
        self.pages = 0
        self.started = asyncio.Event()
        self.app = Starlette(routes=[company.route("vendors", "/messages", "POST", self._message)])

    def begin(self, timetable: Timetable) -> None:
        """Start the timetable."""
        self.timetable, self.began = timetable, self.clock()
        self.started.set()

    @property
    def state(self) -> str:
        return "well" if self.began is None else self.timetable.state(self.clock() - self.began, self.pages)

    async def _message(self, request: Request, _: str) -> Response:
        if self.state == "404 page":
            self.pages += 1
            page = PAGE.replace("{reference}", secrets.token_hex(8))
            return HTMLResponse(page, 404, headers={"connection": "close"})
        asked = await request.json()
        status, price, reply = replied(PARTS[asked["part"]], asked["price"])
        answer = {"part": asked["part"], "status": status, "price": price, "reply": reply}
        return JSONResponse(
            answer, headers={"connection": "close"}
        )  # so that nobody has a connection left in the outage

    async def serve(self, port: int) -> None:
        """Listen as the timetable says, for ever."""
        with contextlib.closing(_held(port)):
            async with serving(self.app, port=port):
                await self.started.wait()
                await self._until(self.timetable.refuses)
            await self._until(self.timetable.page)
            async with serving(self.app, port=port):
                await asyncio.Event().wait()

    async def _until(self, seconds: float) -> None:
        assert self.began is not None
        await self.sleep(self.began + seconds - self.clock())


def _held(port: int) -> socket.socket:
    """The port, bound and without a listener: who connects is refused, and nobody else gets it meanwhile."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((LOOPBACK, port))
    return holder
