"""Signed requests to one AWS service: asynchronous, without threads, each sent once unless asking again is harmless.

Owns the address, the signature of each request and what is asked again. Refuses to know what is asked, what an answer
says, and how it is sent: the outbound port's adapter tells `NotSent` (surely) from `Ambiguous`.

Beside boto3 in threads (bench/aws_client.py, one run, against a canned answer): six times the calls a second, a sixth
of the CPU a call, and an eighth of the CPU until there is a client.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from buspass.config.scalars import is_loopback
from buspass.ports.outbound import Ambiguous, NotSent, Outbound, Request, Response
from buspass.ports.outbound_pyreqwest import PyreqwestOutbound
from buspass_aws.credentials import Credentials, CredentialsMissing
from buspass_aws.signing import Target, query_string, signed

TRIES: Final = 3
"""How often in all a request is sent that may be repeated, as long as the service is not there or throttles."""
LARGEST: Final = 1_000_000_000
"""Bytes of an answer that are taken: a blob's, at most."""
_PAUSE: Final = 0.03
_REGION: Final = re.compile(r"[a-z]{2,3}(-[a-z]+)+-\d{1,2}")
_TRANSIENT: Final = frozenset({429, 500, 502, 503, 504})


class Address(Struct, frozen=True, kw_only=True):
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
        self._outbound: Outbound = PyreqwestOutbound()
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
        await self._outbound.close()

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
        timeout: float,  # noqa: ASYNC109  (the port's, which knows whether the request had left)
    ) -> Response:
        """Sign and send once. `path` is percent-encoded, `timeout` in seconds. Raises NotSent, TimedOut, Ambiguous."""
        try:
            keys = await self._credentials.keys()
        except CredentialsMissing as error:
            raise NotSent(str(error)) from error
        asked = query_string(query or {})
        headers = {"accept-encoding": "identity", **headers}  # to unpack an answer costs more than to receive it
        proven = signed(
            keys, self._target, datetime.now(UTC), method=method, path=path, query=asked, headers=headers, body=body
        )
        url = f"{self.base}{path}?{asked}" if asked else f"{self.base}{path}"
        return await self._outbound.send(
            Request(method=method, url=url, headers=proven, body=body, timeout=timeout, limit=LARGEST)
        )
