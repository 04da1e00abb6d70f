"""A trust domain of two hosts in one process, over the memory store, with a provider and one small service."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.testing.issuer import Issuer, Realm
from buspass.testing.provider import echo
from buspass.testing.provider_wire import completion

DATA = Path(__file__).parents[1] / "data" / "domain"
CONFIG = DATA / "buspass.yaml"

type Hook = Callable[[Any], Awaitable[Response | None]]


class Service:
    """The service behind the tools: it keeps what it got, and answers as a test told it to.

    `hooks`, by path, are awaited with the body before the answer; what they give is the answer.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bodies: list[tuple[str, Any]] = []
        self.answers: dict[str, Response] = {}
        self.hooks: dict[str, Hook] = {}
        self.approved = True
        self.app = Starlette(
            routes=[
                Route("/items/{id}", self._item),
                Route("/checks", self._check, methods=["POST"]),
                Route("/pay", self._pay, methods=["POST"]),
            ]
        )

    def got(self, path: str) -> list[Any]:
        """The bodies that came to a path, in order."""
        return [body for where, body in self.bodies if where == path]

    async def _item(self, request: Request) -> Response:
        return await self._answer(request, None, {"id": request.path_params["id"], "owner": "C-1"})

    async def _check(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(request, body, {"approved": self.approved, "order": body["order"]})

    async def _pay(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(request, body, {"paid": body["amount"]})

    async def _answer(self, request: Request, body: Any, document: object) -> Response:
        self.requests.append(request)
        self.bodies.append((request.url.path, body))
        if hook := self.hooks.get(request.url.path):
            given = await hook(body)
            if given is not None:
                return given
        return self.answers.get(request.url.path) or JSONResponse(document)


class Upstream:
    """The second provider, which answers as a script says, else as the first one does.

    An answer is a response, an exception that breaks the connection, or a function of the body that gives one.
    """

    def __init__(self) -> None:
        self.script: deque[Response | Exception | Hook] = deque()
        self.requests: list[Any] = []
        self.app = Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        answer = self.script.popleft() if self.script else None
        if isinstance(answer, Exception):
            raise answer
        if callable(answer) and not isinstance(answer, Response):
            answer = await answer(body)
        return answer if isinstance(answer, Response) else JSONResponse(completion(body, echo))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def domain(tmp_path: Path, service: Service, upstream: Upstream) -> AsyncIterator[Domain]:
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(CONFIG, tmp_path, services) as domain:
        yield domain


@pytest.fixture
async def policed(tmp_path: Path, service: Service, upstream: Upstream) -> AsyncIterator[Domain]:
    """The same with policies for the start, and for calls that read the history."""
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    async with Domain(DATA / "policed.yaml", tmp_path, services) as domain:
        yield domain


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def issuer(clock: FakeClock) -> Issuer:
    """Realms of workloads (`staff`), of customers (`shop`) and of operators (`people`)."""
    realms = [
        Realm(name="staff", audience="api://buspass", clients={"returns": "s"}),
        Realm(name="shop", audience="api://buspass", clients={"till": "s"}, customers=True),
        Realm(name="people", audience="api://buspass", clients={"desk": "s"}),
    ]
    return Issuer("http://127.0.0.1:9010", realms, clock=lambda: clock.now() / 1000)


@pytest.fixture
async def identified(tmp_path: Path, service: Service, issuer: Issuer, clock: FakeClock) -> AsyncIterator[Domain]:
    """A domain with real issuers: workloads, customers and operators bring tokens of their own."""
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9010": issuer.app}
    async with Domain(DATA / "identified.yaml", tmp_path, services, clock=clock) as domain:
        yield domain
