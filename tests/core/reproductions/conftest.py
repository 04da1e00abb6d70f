"""Our gateway over two stores, and the naive ones beside it, with the same provider and the same services."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from buspass.testing.clock import FakeClock
from buspass.testing.house import PROVIDER_KEY, Agent, Domain
from buspass.testing.outbound import AsgiOutbound
from buspass.testing.provider import Provider
from buspass.testing.state_memory import MemoryState
from buspass_onprem import sqlite

sys.path.insert(0, str(Path(__file__).parent))

CONFIG = Path(__file__).parents[2] / "data" / "reproductions" / "buspass.yaml"


def verbose(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fill the whole output that a call may have, so that a call costs nearly what is held for it."""
    return {"content": "word " * 80}


def slowly(app: Any) -> Any:
    """The same application, which lets everybody else have many turns before it answers."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        await app(scope, receive, send)

    return slow


@pytest.fixture
def provider() -> Provider:
    return Provider(PROVIDER_KEY, mind=verbose)


@pytest.fixture
def world(provider: Provider, service: Any, upstream: Any, claude: Any) -> dict[str, Any]:
    """Everything behind a gateway, by address."""
    return {
        "127.0.0.1:9001": slowly(provider.app),
        "127.0.0.1:9002": slowly(service.app),
        "127.0.0.1:9003": upstream.app,
        "127.0.0.1:9004": claude.app,
    }


type House = Callable[[], Awaitable[Domain]]


@pytest.fixture(params=["memory", "sqlite"])
async def house(request: Any, tmp_path: Path, provider: Provider, world: dict[str, Any]) -> AsyncIterator[House]:
    """Domains, as many as are asked for, each with a way of its own into the one store: replicas in other processes."""
    shared, clock = MemoryState(), FakeClock()
    async with AsyncExitStack() as stack:

        async def built() -> Domain:
            url = f"sqlite:///{tmp_path}/state.db?durability=process"
            state = shared if request.param == "memory" else await sqlite.open(url)
            domain = Domain(CONFIG, tmp_path, world, provider=provider, clock=clock, state=state)
            return await stack.enter_async_context(domain)

        yield built


@pytest.fixture
async def streaming(house: House) -> Domain:
    """What `listen` and `books` work on."""
    return await house()


@pytest.fixture
def outbound(world: dict[str, Any]) -> AsgiOutbound:
    return AsgiOutbound(world)


@pytest.fixture
async def naive_agent() -> AsyncIterator[Callable[..., Agent]]:
    """An agent of a naive gateway, which calls it as it would call ours."""
    async with AsyncExitStack() as stack:
        clients: dict[int, httpx.AsyncClient] = {}

        def at(gateway: Any, session: str = "s") -> Agent:
            if id(gateway) not in clients:
                transport = httpx.ASGITransport(gateway.app)
                clients[id(gateway)] = httpx.AsyncClient(transport=transport, base_url="http://naive")
                stack.push_async_callback(clients[id(gateway)].aclose)
            return Agent(client=clients[id(gateway)], task=session, token=session, document={})

        yield at
