"""Signed requests to one AWS service: asynchronous, without threads, each sent once unless asking again is harmless.

Owns the address, the connections, the signature of each request, and which failure means what: `NotSent` (surely) or
`Ambiguous`, as `buspass.ports.outbound` has them. Refuses to know what is asked and what an answer says.

Beside boto3 in threads (bench/aws_client.py, one run, against a canned answer): seven times the calls a second, an
eighth of the CPU a call, and a ninth of the CPU until there is a client.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

from buspass.config.scalars import is_loopback
from buspass.ports.outbound import Ambiguous, NotSent, Response, TimedOut
from buspass_aws.credentials import Credentials, CredentialsMissing
from buspass_aws.signing import Target, query_string, signed

if TYPE_CHECKING:
    from pyreqwest.client import Client

CONNECT: Final = 2.0
"""Seconds to reach the service, TLS included."""
CONNECTIONS: Final = 128
"""Requests under way at once; more wait for their turn, at most `CONNECT` seconds."""
TRIES: Final = 3
"""How often in all a request is sent that may be repeated, as long as the service is not there or throttles."""
_IDLE: Final = 20.0
"""Seconds that an unused connection is kept: less than the services do, so that reuse seldom meets a close."""
_PAUSE: Final = 0.03
_REGION: Final = re.compile(r"[a-z]{2,3}(-[a-z]+)+-\d{1,2}")
_TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})
_UNSENT: Final = "client error (Connect)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A URL of buspass.yaml, taken apart: `scheme://NAME[/REST]?region=…&endpoint=…` and options of the adapter's."""

    name: str
    rest: str
    region: str
    endpoint: str
    """Empty for the service's own."""
    options: Mapping[str, str]


def address(url: str, form: str, options: frozenset[str] = frozenset()) -> Address:
    """Take a URL apart. `form` is what the error shows as allowed. Raises ValueError.

    Where no `region` is given, AWS_REGION and AWS_DEFAULT_REGION are asked, which every AWS host sets.
    """
    split = urlsplit(url)
    pairs = parse_qsl(split.query, keep_blank_values=True)
    query = dict(pairs)
    known = {"region", "endpoint"} | options
    if split.scheme != form.partition(":")[0] or not split.netloc or split.fragment or len(query) < len(pairs):
        raise ValueError(f"{url!r}: allowed is {form}, each option once")
    if unknown := set(query) - known:
        raise ValueError(f"{url!r}: {min(unknown)!r} is no option; allowed: {', '.join(sorted(known))}")
    region = query.pop("region", "") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    if not _REGION.fullmatch(region):
        raise ValueError(f"{url!r}: {region!r} is no region; name one, as in {form}")
    endpoint = query.pop("endpoint", "")
    if endpoint:
        _check_endpoint(url, endpoint)
    return Address(name=split.netloc, rest=split.path, region=region, endpoint=endpoint.rstrip("/"), options=query)


def _check_endpoint(url: str, endpoint: str) -> None:
    parts = urlsplit(endpoint)
    bare = parts.hostname and not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
    if not bare or not (parts.scheme == "https" or plain):
        raise ValueError(f"{url!r}: endpoint {endpoint!r}; allowed are https://HOST and, on this machine, http://HOST")


def suffix(region: str) -> str:
    """Give the domain that AWS serves a region under; other partitions need an `endpoint`."""
    return "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"


def transient(response: Response) -> bool:
    """Say whether another try may fare better: the service is overloaded or ill."""
    return response.status in _TRANSIENT


async def pause(tried: int) -> None:
    """Wait before another try, the longer the more there were."""
    await asyncio.sleep(_PAUSE * 2**tried * random.uniform(0.5, 1.5))  # noqa: S311  (spreads hosts, guards nothing)


class AwsClient:
    """One service at one base URL (`https://HOST[:PORT]`)."""

    def __init__(self, service: str, region: str, base: str, credentials: Credentials | None = None) -> None:
        self.base = base
        self._target = Target(service=service, region=region, host=urlsplit(base).netloc)
        self._credentials = credentials or Credentials()
        self._http: Client | None = None
        self._process = os.getpid()
        self._calls = 0
        self._closed = False
        self._quiet: asyncio.Event | None = None

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Keep the client open while the block runs. Raises NotSent once it was closed."""
        if self._closed:
            raise NotSent("the store is closed")
        if os.getpid() != self._process:
            raise NotSent("the store was opened before a fork: open it again in the new process")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            if self._quiet is not None and not self._calls:
                self._quiet.set()

    async def close(self) -> None:
        """Wait for what is under way, then let go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if os.getpid() != self._process:  # the connections belong to the process before the fork
            return
        if self._calls:
            self._quiet = asyncio.Event()
            await self._quiet.wait()
        if self._http is not None:
            await self._http.close()

    def renew(self) -> None:
        """Look for other keys: AWS called these expired."""
        self._credentials.renew()

    async def ask(
        self, method: str, path: str, *, again: Callable[[Response], bool] = transient, **parts: Any
    ) -> Response:
        """`send`, up to `TRIES` times where the service isn't there or `again` says so: for what may be repeated."""
        for left in range(TRIES - 1, 0, -1):
            try:
                answer = await self.send(method, path, **parts)
                if not again(answer):
                    return answer
            except (NotSent, Ambiguous):
                pass
            await pause(TRIES - left)
        return await self.send(method, path, **parts)

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str],
        body: bytes = b"",
        timeout: float,  # noqa: ASYNC109  (the transport's own, which knows whether the connection stood)
    ) -> Response:
        """Sign and send once. `path` is percent-encoded, `timeout` in seconds. Raises NotSent, TimedOut, Ambiguous."""
        try:
            keys = await self._credentials.keys()
        except CredentialsMissing as error:
            raise NotSent(str(error)) from error
        asked = query_string(query or {})
        proven = signed(
            keys, self._target, datetime.now(UTC), method=method, path=path, query=asked, headers=headers, body=body
        )
        url = f"{self.base}{path}?{asked}" if asked else f"{self.base}{path}"
        return await self._exchange(method, url, proven, body, timeout)

    async def _exchange(self, method: str, url: str, headers: dict[str, str], body: bytes, seconds: float) -> Response:
        from pyreqwest.exceptions import PyreqwestError  # noqa: PLC0415  (30 ms, for hosts that come to need AWS)

        if self._http is None:
            self._http = _connected()
        request = self._http.request(method, url).headers(headers).timeout(timedelta(seconds=seconds))
        cancelled = _cancellations()
        try:
            answer = await (request.body_bytes(body) if body else request).build().send()
            content = (await answer.bytes()).to_bytes()
        except PyreqwestError as error:
            raise _translated(error) from error
        if _cancellations() > cancelled:  # pyreqwest forgets a cancellation that comes together with the answer
            raise asyncio.CancelledError
        return Response(status=answer.status, headers={k.lower(): v for k, v in answer.headers.items()}, body=content)


def _cancellations() -> int:
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def _connected() -> Client:
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415  (see _exchange)

    return (
        ClientBuilder()
        .no_proxy()
        .follow_redirects(enable=False)
        .user_agent("buspass")
        .gzip(enable=False)  # an answer is a few hundred bytes: to unpack it costs more than to receive it
        .brotli(enable=False)
        .deflate(enable=False)
        .zstd(enable=False)
        .connect_timeout(timedelta(seconds=CONNECT))
        .max_connections(CONNECTIONS)
        .pool_timeout(timedelta(seconds=CONNECT))
        .pool_idle_timeout(timedelta(seconds=_IDLE))
        .build()
    )


def _translated(error: Any) -> NotSent | Ambiguous:
    """The one table of what a failure of the transport means.

    | failure                                                                    | means     |
    |----------------------------------------------------------------------------|-----------|
    | no address, refused, unreachable, TLS failed, all of that not within 2 s   | NotSent   |
    | no connection free within 2 s, the client closed                           | NotSent   |
    | no whole answer in time                                                    | TimedOut  |
    | reset, closed, garbage, cut short                                          | Ambiguous |

    The exception's class does not tell them apart: a connection that breaks after the request left is a ConnectError
    too, and a service that never answers a ConnectTimeoutError. hyper's own word in the causes does; without it the
    request counts as sent.
    """
    from pyreqwest import exceptions  # noqa: PLC0415  (see _exchange)

    causes = [cause["message"] for cause in (getattr(error, "details", None) or {}).get("causes") or ()]
    said = causes[-1] if causes else str(error)
    if _UNSENT in causes or isinstance(error, exceptions.PoolTimeoutError | exceptions.ClientClosedError):
        return NotSent(f"no connection: {said}")
    if isinstance(error, exceptions.RequestTimeoutError):
        return TimedOut(f"no answer in time: {said}")
    return Ambiguous(f"the connection broke: {said}")
