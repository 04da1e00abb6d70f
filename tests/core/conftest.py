"""A trust domain of two hosts in one process, over the memory store, with a provider and one small service."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.issuer import Issuer, Realm
from buspass.testing.provider import echo
from buspass.testing.provider_anthropic import AnthropicProvider
from buspass.testing.provider_stream import chunks
from buspass.testing.provider_wire import Mind, completion

sys.path.insert(0, str(Path(__file__).parent))  # the folder's own support modules

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


type Edit = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """A function: what to replace in the domain's file, each once → where the new one lies, its policies beside it."""

    def edit(changes: Mapping[str, str]) -> Path:
        text = CONFIG.read_text("utf-8")
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "edited" / "buspass.yaml"
        shutil.copytree(CONFIG.parent / "policies", path.parent / "policies")
        path.write_text(text, "utf-8")
        return path

    return edit


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


class Feed:
    """A stream of the second provider that a test lets out event by event; `gone`: nobody reads it any more.

    `first`: the first event comes by itself, so that the stream begins.
    """

    def __init__(self, mind: Mind = echo) -> None:
        self.mind, self.first = mind, True
        self.frames: deque[bytes] = deque()
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()
        self._out: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def __call__(self, body: Any) -> Response:
        self.frames.extend(chunks(completion(body, self.mind), usage=True))
        if self.first:
            self._out.put_nowait(self.frames.popleft())
        self.asked.set()
        return StreamingResponse(self._body(), media_type="text/event-stream")

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            while (piece := await self._out.get()) is not None:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.gone.set()

    async def give(self, count: int = 1000) -> None:
        """Let the next `count` events out, all of them and the end unless told."""
        await self.asked.wait()
        for _ in range(min(count, len(self.frames))):
            self._out.put_nowait(self.frames.popleft())
        if not self.frames:
            self._out.put_nowait(None)

    def say(self, piece: bytes | Exception | None) -> None:
        """Let these bytes out, break the connection, or end the body."""
        self._out.put_nowait(piece)


class Listener:
    """An agent that reads a stream event by event over ASGI. Use as `async with`: at its end it hangs up.

    `before` is awaited with every piece before it is taken.
    """

    def __init__(self, app: Any, agent: Agent, body: Mapping[str, Any], path: str, headers: Mapping[str, str]) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw = self.all = b""
        self.before: Callable[[bytes], Awaitable[None]] | None = None
        sent = {"content-type": "application/json", **agent.headers, **headers}
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        }
        self._body = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        self._came: asyncio.Queue[Any] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._over = False
        self._app = app

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return self._body.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._gone.is_set():
            raise OSError("the client is gone")
        if self.before is not None and message.get("body"):
            await self.before(message["body"])
        self._came.put_nowait(message)

    async def __aenter__(self) -> Self:
        self.running = asyncio.create_task(self._app(self._scope, self._receive, self._send))
        start = await self._next()
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.hang_up()

    async def _next(self) -> Any:
        taking = asyncio.ensure_future(self._came.get())
        await asyncio.wait({taking, self.running}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if not taking.done():
            taking.cancel()
            if self.running.done():
                self.running.result()
            raise AssertionError("nothing came")
        return taking.result()

    async def event(self) -> Any:
        """The next event: its data, `[DONE]`, or "" at the end. Of an answer that is no stream, all of it."""
        while b"\n\n" not in self.raw and not self._over:
            message = await self._next()
            self.raw += message.get("body", b"")
            self.all += message.get("body", b"")
            self._over = not message.get("more_body")
        frame, _, self.raw = self.raw.partition(b"\n\n")
        data = frame.decode().rpartition("data: ")[2]
        return data if data in {"[DONE]", ""} else json.loads(data)

    async def rest(self) -> list[Any]:
        """All events that are still to come."""
        events = []
        while (event := await self.event()) != "":
            events.append(event)
        return events

    async def hang_up(self) -> None:
        """Close the connection, and wait until the application has seen it."""
        self._gone.set()
        await asyncio.wait_for(self.running, 30)


type Listen = Callable[..., Listener]


@pytest.fixture
def feed(upstream: Upstream) -> Feed:
    """The next answer of the second provider, let out by hand."""
    upstream.script.append(feed := Feed())
    return feed


@pytest.fixture
def feeds() -> list[Feed]:
    """Ten more of them, for a test to script."""
    return [Feed() for _ in range(10)]


@pytest.fixture
def claude() -> AnthropicProvider:
    return AnthropicProvider("provider-key")


@pytest.fixture
async def streaming(
    tmp_path: Path, service: Service, upstream: Upstream, claude: AnthropicProvider
) -> AsyncIterator[Domain]:
    """A domain with providers of both wire formats, and one (`fed`) whose streams a test lets out by hand."""
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app, "127.0.0.1:9004": claude.app}
    async with Domain(DATA / "streaming.yaml", tmp_path, services) as domain:
        yield domain


@pytest.fixture
async def inspected(
    tmp_path: Path, service: Service, upstream: Upstream, claude: AnthropicProvider
) -> AsyncIterator[Domain]:
    """A domain whose workflows have rules for personal data, with providers of both wire formats."""
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app, "127.0.0.1:9004": claude.app}
    async with Domain(DATA / "inspected.yaml", tmp_path, services) as domain:
        yield domain


@pytest.fixture
def listener() -> type[Listener]:
    """For applications other than a domain's."""
    return Listener


@pytest.fixture
def listen(streaming: Domain) -> Listen:
    """Ask for a stream: `listen(agent, "text", model=…, path=…, headers=…, **body)`."""

    def listening(agent: Agent, text: str = "hello", **more: Any) -> Listener:
        path, headers = more.pop("path", "/v1/chat/completions"), more.pop("headers", {})
        body = {"model": "plan", "stream": True, "messages": [{"role": "user", "content": text}], **more}
        if path == "/v1/messages":
            body.setdefault("max_tokens", 50)
        return Listener(streaming.apps[more.pop("host", "onprem")], agent, body, path, headers)

    return listening


class Books:
    """What a task's journal and ledger say, whatever has become of its token."""

    def __init__(self, domain: Domain, agent: Agent) -> None:
        self._domain, self._agent = domain, agent

    async def get(self, path: str = "") -> Any:
        key = self._domain.apps["onprem"].house.operator_key
        answer = await self._agent.client.get(
            f"/v1/tasks/{self._agent.task}{path}", headers={"authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def calls(self, kind: str = "inference") -> list[dict[str, Any]]:
        """The finished calls, oldest first. The ledger must close: nothing held, and the sum of the records spent."""
        verdict = await self.get("/trace/verify")
        assert verdict["ok"], verdict
        found = (await self.get())["budget"]
        assert set(found["held"].values()) == {0}, "a hold was left"
        records = (await self.get("/trace"))["records"]
        spent = {name: sum(row.get("use", {}).get(name, 0) for row in records) for name in ("tokens", "calls")}
        assert {name: found["spent"][name] for name in spent} == spent
        return [row for row in records if row["kind"] == kind]

    async def held(self) -> int:
        """How many calls are in flight."""
        head = await self._domain.state.read(self._agent.task, "head")
        assert head is not None
        opened = head["open"]
        assert isinstance(opened, Mapping)
        return len(opened)


@pytest.fixture
def books(streaming: Domain) -> Callable[[Agent], Books]:
    return lambda agent: Books(streaming, agent)
