"""One invocation after another on one event loop: what surrounds the application on Lambda.

Owns the loop that outlives an invocation, the start of the application and the deadline. Refuses to know what an event
looks like (`asgi`), what is logged (`access_log`) and what the application does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from buspass.http import buffered
from buspass.model import Limits
from buspass_aws import asgi
from buspass_aws.access_log import AccessLog

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

LIMITS: Final = Limits(
    request_bytes=asgi.PAYLOAD_BYTES,
    response_bytes=asgi.PAYLOAD_BYTES,
    first_byte=900.0,  # buffered: the first byte leaves with the last
    total=900.0,
)
"""Bytes and seconds that Lambda allows at most; a function's own time-out arrives with each invocation."""

RESERVE: Final = 0.5
"""Seconds of an invocation kept back to get the answer out: a function that overruns is killed, with its instance."""


class Application(Protocol):
    """An ASGI 3 `http` callable that was started."""

    async def __call__(self, scope: Any, receive: Any, send: Any, /) -> None: ...

    async def tick(self, seconds: float) -> int: ...

    async def close(self) -> None: ...


type Start = Callable[[Mapping[str, str], Limits], Awaitable[Application]]


class Handler:
    """What the Lambda runtime calls. The application starts with it, in the init phase, once per instance."""

    def __init__(self, start: Start, environ: Mapping[str, str]) -> None:
        self._log = AccessLog(environ)
        # The event holds tokens: POWERTOOLS_LOGGER_LOG_EVENT must not be able to log it.
        correlated = self._log.logger.inject_lambda_context(
            self._invoke, log_event=False, correlation_id_path="requestContext.requestId"
        )
        self._measured = self._log.metrics.log_metrics(correlated, capture_cold_start_metric=True)
        self._loop = asyncio.new_event_loop()
        try:
            self._application = self._loop.run_until_complete(start(environ, LIMITS))
        except BaseException:
            self._loop.close()
            raise

    def __call__(self, event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Answer one event with one payload 2.0. Raises asgi.EventError for what is not an HTTP event."""
        payload: dict[str, Any] = self._measured(event, context)
        return payload

    def close(self) -> None:
        """Close the application and the loop. Lambda itself never does: it freezes, then forgets."""
        self._loop.run_until_complete(self._application.close())
        self._loop.close()

    def _invoke(self, event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        began = time.perf_counter()
        left = context.get_remaining_time_in_millis() / 1000
        if asgi.scheduled(event):
            return self._loop.run_until_complete(self._tick(left / 2))
        request = asgi.to_request(event, deadline=max(left - RESERVE, left / 2))
        answer = self._loop.run_until_complete(self._answer(request, left - RESERVE / 2))
        payload = asgi.to_payload(answer)
        self._log.record(request, payload["statusCode"], (time.perf_counter() - began) * 1000)
        return payload

    async def _tick(self, seconds: float) -> dict[str, Any]:
        """Look after what is due. What fails is logged, and due again at the next schedule."""
        looked = 0
        try:
            looked = await self._application.tick(seconds)
        except Exception:
            self._log.logger.exception("the timer failed")
        self._log.ticked(looked)
        return {"looked": looked}

    async def _answer(self, request: asgi.Request, seconds: float) -> buffered.Answer:
        """The application's answer, or a problem in its place: a fault of one call must not end the instance."""
        try:
            async with asyncio.timeout(seconds):
                return await buffered.call(self._application, request.scope, request.body)
        except TimeoutError:
            return asgi.problem("deadline_exceeded", "the function's time-out left no time to go on")
        except Exception:  # the last line of defence: whatever it was, it is logged and the caller told so
            self._log.logger.exception("the application failed")
            return asgi.problem("internal", "the gateway failed; its log says why")


def make_handler(start: Start, environ: Mapping[str, str] = os.environ) -> Handler:
    """Start an application and return what the Lambda runtime is to call."""
    return Handler(start, environ)
