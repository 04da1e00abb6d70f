"""A Lambda runtime of our own, for Function URLs in the mode RESPONSE_STREAM: answers leave as they are made.

Owns the loop, one invocation at a time, the start of the application, the deadline, errors and the end by SIGTERM.
Refuses to know the Runtime API's wire (`runtime_api`), events (`asgi`) and what the application does. `_HANDLER` names
the application's start: `buspass.http.start`.

    python -m buspass_aws.runtime
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from buspass.model import Limits
from buspass_aws import asgi, authorities
from buspass_aws.access_log import AccessLog
from buspass_aws.invocation import RESERVE, Application, Start
from buspass_aws.runtime_api import AnswerLost, Invocation, RuntimeApi, RuntimeApiError, prelude

LIMITS: Final = Limits(
    request_bytes=asgi.PAYLOAD_BYTES,
    response_bytes=200 * 1024 * 1024,
    first_byte=900.0,
    total=900.0,
)
"""Bytes and seconds that Lambda allows at most; a function's own time-out arrives with each invocation."""

_FRAMING: Final = {"content-length", "transfer-encoding", "connection", "keep-alive"}
"""Headers that are the service's to write: it sends the answer on in chunks of its own."""


class HandlerError(Exception):
    """`_HANDLER` names no application's start."""


class AnswerTooLong(Exception):  # noqa: N818 - it reaches the service by this name
    """The application sent more than the host carries."""


class BrokenAnswer(Exception):  # noqa: N818 - it reaches the service by this name
    """The application returned without a whole answer."""


class Answer:
    """The sending side of one invocation's ASGI conversation. Nothing is sent before the first of the body."""

    def __init__(self, api: RuntimeApi, invocation: str, most: int) -> None:
        self._api = api
        self._invocation = invocation
        self._most = most
        self._start: MutableMapping[str, Any] | None = None
        self._sent = 0
        self.begun = False
        self.lost = False
        self.done = asyncio.Event()

    @property
    def status(self) -> int:
        """The status that was sent; 500 if none was."""
        return int(self._start["status"]) if self._start is not None and self.begun else 500

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Take a message of the application. Raises AnswerTooLong; what nobody takes any more is swallowed."""
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body" and not self.done.is_set():
            body = message.get("body", b"")
            self._sent += len(body)
            if self._sent > self._most:
                raise AnswerTooLong(f"the answer is longer than {self._most} bytes")
            await self._deliver(body)
            if not message.get("more_body"):
                self.done.set()

    async def _deliver(self, body: bytes) -> None:
        if self.lost:
            return
        try:
            if not self.begun:
                body = await self._begin() + body
            await self._api.chunk(body)
        except AnswerLost:
            self.lost = True  # the application goes on: what it has spent must be settled

    async def _begin(self) -> bytes:
        if self._start is None:
            raise BrokenAnswer("a body before its start")
        headers, cookies = asgi.split(self._start.get("headers", ()))
        await self._api.begin(self._invocation)
        self.begun = True
        kept = {name: value for name, value in headers.items() if name not in _FRAMING}
        return prelude(self._start["status"], kept, cookies)


class Runtime:
    """One instance: an application, and the loop that brings it its invocations."""

    def __init__(self, api: RuntimeApi, application: Application, log: AccessLog) -> None:
        self._api = api
        self._application = application
        self._log = log
        self._waiting: asyncio.Task[Invocation] | None = None
        self._stopping = False

    async def run(self) -> None:
        """Serve until `stop`. Raises RuntimeApiError."""
        while not self._stopping:
            self._waiting = asyncio.create_task(self._api.next())
            try:
                invocation = await self._waiting
            except asyncio.CancelledError:
                if self._stopping:
                    return
                raise
            self._waiting = None
            await self._serve(invocation)
            sys.stdout.flush()  # before the next poll: the instance may be frozen then

    def stop(self) -> None:
        """Poll no more. An invocation in hand is served to its end, as long as the platform lets it."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def _serve(self, invocation: Invocation) -> None:
        began = time.perf_counter()
        _trace(invocation.trace)
        answer = Answer(self._api, invocation.id, LIMITS.response_bytes)
        left = invocation.deadline - time.time()
        request: asgi.Request | None = None
        try:
            event = json.loads(invocation.event)
            if asgi.scheduled(event):
                await self._tick(invocation.id, left / 2)
                return
            request = asgi.to_request(event, deadline=max(left - RESERVE, left / 2))
            self._log.begin(invocation.id, event["requestContext"].get("requestId", ""))
            await self._answer(request, answer, left - RESERVE / 2)
        except RuntimeApiError:
            raise
        except Exception as error:  # the last line of defence: a fault of one call must not end the instance
            self._log.logger.exception("the application failed")
            await self._failed(invocation.id, answer, error)
        if request is not None:
            self._log.record(request, answer.status, (time.perf_counter() - began) * 1000)
            self._log.metrics.flush_metrics()

    async def _tick(self, invocation: str, seconds: float) -> None:
        """Look after what is due, and say how much that was, though nobody reads it."""
        looked = await self._application.tick(seconds)
        await self._api.begin(invocation)
        await self._api.chunk(prelude(200, {}, []) + json.dumps({"looked": looked}).encode())
        await self._api.end()

    async def _answer(self, request: asgi.Request, answer: Answer, seconds: float) -> None:
        incoming: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": request.body, "more_body": False}]

        async def receive() -> MutableMapping[str, Any]:
            if incoming:
                return incoming.pop()
            # The platform doesn't say when a client goes away: it stays until it has been answered.
            await answer.done.wait()
            return {"type": "http.disconnect"}

        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                await self._application(request.scope, receive, answer.send)
        except TimeoutError:
            if answer.begun or not deadline.expired():
                raise
            late = asgi.problem("deadline_exceeded", "the function's time-out left no time to go on")
            await answer.send({"type": "http.response.start", "status": late.status, "headers": late.headers})
            await answer.send({"type": "http.response.body", "body": late.body})
        if not answer.done.is_set():
            raise BrokenAnswer("the application returned without a whole answer")
        await self._ended(answer)

    async def _ended(self, answer: Answer) -> None:
        if answer.lost:
            self._log.logger.warning("the service stopped taking the answer")
            return
        try:
            await self._api.end()
        except AnswerLost as error:
            self._log.logger.warning("the service did not take the answer", reason=str(error))

    async def _failed(self, invocation: str, answer: Answer, error: Exception) -> None:
        try:
            if answer.lost:
                return
            if answer.begun:
                await self._api.end(error)
            else:
                await self._api.fail(invocation, error)
        except AnswerLost as lost:
            self._log.logger.warning("the service did not take the error", reason=str(lost))


def _trace(header: str) -> None:
    if header:
        os.environ["_X_AMZN_TRACE_ID"] = header
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)


def find(handler: str) -> Start:
    """The application's start that `MODULE.NAME` names. Raises HandlerError; an import may raise anything."""
    module, _, name = handler.rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module else None
    if not inspect.iscoroutinefunction(found):
        raise HandlerError(f"the handler {handler!r} must name an application's start, such as buspass.http.start")
    start: Start = found
    return start


async def serve(environ: Mapping[str, str]) -> int:
    """Start what `_HANDLER` names and serve until SIGTERM. 0 then, 1 where it does not start or the API is lost."""
    api = RuntimeApi(environ["AWS_LAMBDA_RUNTIME_API"])
    try:
        application = await find(environ.get("_HANDLER", ""))(environ, LIMITS)
    except Exception as error:  # noqa: BLE001 - whatever it was, the service is told and the instance ends
        sys.stderr.write(f"the function did not start: {type(error).__name__}: {error}\n")
        with contextlib.suppress(AnswerLost, RuntimeApiError):
            await api.fail_init(error)
        return 1
    runtime = Runtime(api, application, AccessLog(environ))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runtime.stop)
    try:
        await runtime.run()
    except RuntimeApiError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        api.close()
        await application.close()
    return 0


def main() -> int:
    """Run as Lambda runs a custom runtime."""
    root = os.environ.get("LAMBDA_TASK_ROOT", "")
    if root and root not in sys.path:
        sys.path.insert(0, root)
    authorities.choose(os.environ)
    return asyncio.run(serve(os.environ))


if __name__ == "__main__":
    sys.exit(main())
