"""How the adapters of Azure's services reach them: endpoint, identity, connections, and their orderly end.

Owns the options `endpoint` and `key` of a URL, and the identity in Entra ID. Refuses to know a service.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit
from urllib.request import getproxies

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.pipeline.transport import AioHttpTransport

OPTIONS: Final = ("endpoint", "key")


def options_of(url: str) -> Mapping[str, str]:
    """Read a URL's options, `endpoint` and `key`. Raises ValueError for any other."""
    query = urlsplit(url).query
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise ValueError(f"{url!r}: {error}") from error
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"{url!r}: unknown option {name!r}; allowed are {' and '.join(OPTIONS)}")
    return options


def endpoint_of(url: str, default: str) -> str:
    """Give the service's address: the option `endpoint`, https, or http on loopback. Raises ValueError."""
    given = options_of(url).get("endpoint")
    if given is None:
        return default
    parts = urlsplit(given)
    if not parts.hostname or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not _near(parts)):
        raise ValueError(f"{url!r}: an endpoint is https://HOST[:PORT], or http:// on loopback")
    return given


def key_of(url: str) -> str | None:
    """Give the key in the environment variable that the option `key` names; None: use Entra ID. Raises ValueError.

    It is for stand-ins: an account of your own has its keys turned off.
    """
    variable = options_of(url).get("key")
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise ValueError(f"{url!r}: the environment variable {variable!r} should hold the account's key")
    return key


def identity() -> AsyncTokenCredential:
    """The identity this process has in Entra ID: a managed identity in Azure, whoever is logged in at a desk.

    `AZURE_CLIENT_ID` chooses between several, `AZURE_TOKEN_CREDENTIALS` which ways are tried.
    """
    from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415  (a quarter of a second; a key needs none)

    return DefaultAzureCredential(exclude_interactive_browser_credential=True)


def transport() -> Any:
    """Connections of one client. Only where a proxy is set is the environment read for each request, in threads."""
    return AioHttpTransport(use_env_settings=bool(getproxies()))


class Calls:
    """The calls under way on one client, which must not be closed under them."""

    def __init__(self) -> None:
        self.closed = False
        self._running = 0
        self._idle = asyncio.Event()
        self._ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    @contextlib.asynccontextmanager
    async def ending(self) -> AsyncIterator[bool]:
        """Let no more begin, and give True once none is left; False, when it is over, to all but the first."""
        first, self.closed = not self.closed, True
        if not first:
            await self._ended.wait()
        elif self._running:
            self._idle.clear()
            await self._idle.wait()
        try:
            yield first
        finally:
            self._ended.set()


def _near(parts: SplitResult) -> bool:
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return parts.hostname == "localhost"
