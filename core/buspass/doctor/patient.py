"""The host that is examined: what of it could be opened, and the times that others gave while it was asked.

Refuses to open anything itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from msgspec import Struct

from buspass.config.settings import Host, Settings
from buspass.identity.domain import DomainKey
from buspass.ports.blobs import Blobs
from buspass.ports.clock import Clock
from buspass.ports.outbound import Outbound, Request, Response, Streamed
from buspass.ports.secrets import Secrets
from buspass.ports.signer import Signer
from buspass.ports.state import State


class Watched:
    """An outbound that notes how far each server's clock, by its Date header, is from this host's (in seconds)."""

    def __init__(self, inner: Outbound, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self.skews: dict[str, float] = {}

    async def send(self, request: Request) -> Response:
        """Pass it on."""
        before = self._clock.now()
        answer = await self._inner.send(request)
        try:
            there = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, ValueError):
            return answer
        # A Date is whole seconds, cut off, and was written at some time between asking and having the answer.
        first, last = there - self._clock.now() / 1000, there + 1 - before / 1000
        self.skews[urlsplit(request.url).netloc] = first if first > 0 else min(last, 0.0)
        return answer

    async def open(self, request: Request) -> Streamed:
        """Pass it on."""
        return await self._inner.open(request)

    async def close(self) -> None:
        """Let the connections go."""
        await self._inner.close()


class Patient(Struct, frozen=True, kw_only=True):
    """What the checks ask. A part that could not be opened is None: why was already told.

    `environ` is the host's; `operator_key` the bearer of a loopback gateway's own operator, where there is one.
    """

    settings: Settings
    host: Host
    environ: Mapping[str, str]
    clock: Clock
    outbound: Watched
    secrets: Secrets | None = None
    domain_key: DomainKey | None = None
    signer: Signer | None = None
    state: State | None = None
    blobs: Blobs | None = None
    operator_key: str | None = None
