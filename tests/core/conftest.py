"""A trust domain of two hosts in one process, over the memory store, with a provider and one small service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from buspass.testing.house import Domain

CONFIG = Path(__file__).parents[1] / "data" / "domain" / "buspass.yaml"


class Service:
    """The service behind the tools: it keeps what it got, and answers as a test told it to."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: dict[str, Response] = {}
        self.approved = True
        self.app = Starlette(
            routes=[
                Route("/items/{id}", self._item),
                Route("/checks", self._check, methods=["POST"]),
                Route("/pay", self._pay, methods=["POST"]),
            ]
        )

    async def _item(self, request: Request) -> Response:
        return await self._answer(request, {"id": request.path_params["id"], "owner": "C-1"})

    async def _check(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(request, {"approved": self.approved, "order": body["order"]})

    async def _pay(self, request: Request) -> Response:
        body = await request.json()
        return await self._answer(request, {"paid": body["amount"]})

    async def _answer(self, request: Request, document: object) -> Response:
        self.requests.append(request)
        return self.answers.get(request.url.path) or JSONResponse(document)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def domain(tmp_path: Path, service: Service) -> AsyncIterator[Domain]:
    async with Domain(CONFIG, tmp_path, {"127.0.0.1:9002": service.app}) as domain:
        yield domain
