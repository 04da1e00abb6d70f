"""The outbound port without a network: answers from a script, or from ASGI applications in this process.

Owns what was asked (`requests`) and what is answered. Refuses to open a socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

from buspass.ports.outbound import Ambiguous, NotSent, Outbound, Request, Response, Streamed, TimedOut, TooLarge

type Answer = Response | Exception | Callable[[Request], Response | Awaitable[Response]]
type Message = MutableMapping[str, Any]
type Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class ScriptedOutbound:
    """Gives the answers in order: a response, an exception to raise, or a function of the request.

    `default` is given once the script is over; without one that is an AssertionError.
    """

    def __init__(self, answers: Iterable[Answer] = (), *, default: Answer | None = None) -> None:
        self.answers = list(answers)
        self.default = default
        self.requests: list[Request] = []
        self.closed = False

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else self.default
        if answer is None:
            raise AssertionError(f"nothing is scripted for {request.method} {request.url}")
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Response):
            return answer
        given = answer(request)
        return given if isinstance(given, Response) else await given

    async def open(self, request: Request) -> Streamed:
        """Give the next answer as one piece."""
        return _begun(await self.send(request))

    async def close(self) -> None:
        self.closed = True


class RecordingOutbound:
    """Passes everything on and keeps what was asked and answered: `exchanges` holds (request, answer or error)."""

    def __init__(self, inner: Outbound) -> None:
        self.inner = inner
        self.exchanges: list[tuple[Request, Response | Exception]] = []

    @property
    def requests(self) -> list[Request]:
        return [request for request, _ in self.exchanges]

    async def send(self, request: Request) -> Response:
        try:
            answer = await self.inner.send(request)
        except (NotSent, Ambiguous) as error:
            self.exchanges.append((request, error))
            raise
        self.exchanges.append((request, answer))
        return answer

    async def open(self, request: Request) -> Streamed:
        try:
            streamed = await self.inner.open(request)
        except (NotSent, Ambiguous) as error:
            self.exchanges.append((request, error))
            raise
        begun = Response(status=streamed.status, headers=streamed.headers, body=b"")
        self.exchanges.append((request, begun))
        return streamed

    async def close(self) -> None:
        await self.inner.close()


class AsgiOutbound:
    """Sends to ASGI applications by host: `{"127.0.0.1:8741": app}`, with the port where the URL has one.

    Another host is NotSent; an application that raises or stops half-way is Ambiguous. `down` holds hosts that
    refuse connections for now. The limit and the time count as they do on a network.
    """

    def __init__(self, apps: Mapping[str, Asgi]) -> None:
        self.apps = dict(apps)
        self.down: set[str] = set()
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        host = urlsplit(request.url).netloc
        if host not in self.apps or host in self.down:
            raise NotSent(f"nobody listens at {host}")
        if request.timeout <= 0:
            raise NotSent("no time was left to begin")
        try:
            async with asyncio.timeout(request.timeout):
                return await _exchange(self.apps[host], request)
        except TimeoutError:
            raise TimedOut(f"no whole answer within {request.timeout:g} s") from None

    async def open(self, request: Request) -> Streamed:
        self.requests.append(request)
        host = urlsplit(request.url).netloc
        if host not in self.apps or host in self.down:
            raise NotSent(f"nobody listens at {host}")
        running = _Running(self.apps[host], request)
        try:
            async with asyncio.timeout(request.timeout):
                start = await running.next()
        except TimeoutError:
            await running.stop()
            raise TimedOut(f"no beginning of an answer within {request.timeout:g} s") from None
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
        return Streamed(status=start["status"], headers=headers, chunks=running.chunks(request.idle))

    async def close(self) -> None:
        self.apps.clear()


class _Running:
    """An application that answers piece by piece, in a task of its own; `stop` is a client that hangs up."""

    def __init__(self, app: Asgi, request: Request) -> None:
        self._messages: asyncio.Queue[Message | Exception] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._bodies: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]
        self._task = asyncio.create_task(self._run(app, request))

    async def _run(self, app: Asgi, request: Request) -> None:
        try:
            await app(_scope(request), self._receive, self._messages.put)
            self._messages.put_nowait(Ambiguous("the answer is cut short"))
        except Exception as error:  # noqa: BLE001 - whatever a server fails of, its client sees a broken connection
            self._messages.put_nowait(Ambiguous(f"the connection broke: {error!r}"))

    async def _receive(self) -> Message:
        if self._bodies:
            return self._bodies.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> Message:
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def chunks(self, idle: float) -> AsyncGenerator[bytes, None]:
        try:
            more = True
            while more:
                try:
                    async with asyncio.timeout(idle):
                        message = await self.next()
                except TimeoutError:
                    raise TimedOut(f"the answer stood still for {idle:g} s") from None
                more = message.get("more_body", False)
                if message.get("body"):
                    yield message["body"]
        finally:
            await self.stop()

    async def stop(self) -> None:
        self._gone.set()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _begun(response: Response) -> Streamed:
    async def chunks() -> AsyncGenerator[bytes, None]:
        if response.body:
            yield response.body

    return Streamed(status=response.status, headers=response.headers, chunks=chunks())


async def _exchange(app: Asgi, request: Request) -> Response:
    sent: list[Message] = []
    bodies: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> Message:
        return bodies.pop() if bodies else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if sum(len(part.get("body", b"")) for part in sent) > request.limit:
            raise TooLarge(f"the answer is larger than the {request.limit} bytes that are taken")

    try:
        await app(_scope(request), receive, send)
    except (Ambiguous, TimeoutError):
        raise
    except Exception as error:  # whatever a server fails of, its client sees a broken connection
        raise Ambiguous(f"the connection broke: {error!r}") from error
    if not sent or sent[0]["type"] != "http.response.start" or sent[-1].get("more_body"):
        raise Ambiguous("the answer is cut short")
    return Response(
        status=sent[0]["status"],
        headers={name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sent[0]["headers"]},
        body=b"".join(part.get("body", b"") for part in sent[1:]),
    )


def _scope(request: Request) -> dict[str, Any]:
    url = urlsplit(request.url)
    headers = {"host": url.netloc, "content-length": str(len(request.body))}
    headers |= {name.lower(): value for name, value in request.headers.items()}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method.upper(),
        "scheme": url.scheme,
        "path": unquote(url.path) or "/",
        "raw_path": (url.path or "/").encode(),
        "query_string": url.query.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": (url.hostname, url.port),
    }
