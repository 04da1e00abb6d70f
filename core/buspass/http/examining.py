"""`buspass doctor` of one host: opens what the host would open, part by part, and has the checks asked of it.

Owns that a part which can't be opened is a finding, and hides no other. Makes no key and publishes none. Refuses to
judge: `buspass.doctor` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

from msgspec import Struct, field

from buspass.config.settings import Host, Settings
from buspass.doctor import Finding, Patient, Watched, examine, refused
from buspass.doctor.finding import good
from buspass.errors import ConfigError
from buspass.http.adapters import adapter, opened, secrets_of
from buspass.http.compose import data_of, domain_key_of, host_of, settings_of
from buspass.ports.blobs import BlobsUnavailable
from buspass.ports.clock import Clock, SystemClock
from buspass.ports.outbound import Outbound
from buspass.ports.outbound_httpx import HttpxOutbound
from buspass.ports.signer import SignerUnavailable
from buspass.ports.state import Unavailable

SECONDS: Final = 30.0
"""That a part may take to open."""
REMEDIES: Final[Mapping[str, str]] = {
    "secrets": "BUSPASS_SECRETS names a directory or a store's URL; see docs/hosts.md",
    "domain_key": "set the secret that domain_key: names, one for all hosts; without the key `buspass up` makes one",
    "signer": "see that hosts: NAME: signer names a key this host may use; `buspass up` makes file: keys on loopback",
    "state": "see the URL, that the store runs, and that this host may reach, read and write it (docs/stores.md)",
    "blobs": "see the URL, and that the folder or bucket is there and this host may write in it",
    "operator": "delete the file, and `buspass up` makes another",
}
KNOWN: Final = (ConfigError, Unavailable, BlobsUnavailable, SignerUnavailable, OSError)
"""What says in its own words what is wrong; of another error only the kind is told, as its text may hold anything."""


class _Opening(Struct, frozen=True):
    found: list[Finding] = field(default_factory=list)
    closing: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def part(self, name: str, about: str, way_in: Callable[[], Awaitable[Any]], *, closes: bool = False) -> Any:
        """Open a part, or note why not and give None."""
        try:
            async with asyncio.timeout(SECONDS):
                part = await way_in()
        except TimeoutError:
            self._failed(name, about, f"gave no answer within {SECONDS:g} s")
        except KNOWN as error:
            self._failed(name, about, str(error))
        except Exception as error:  # noqa: BLE001 - a driver's own error is a finding, too
            self._failed(name, about, f"can't be opened: {type(error).__name__}")
        else:
            if closes:
                self.closing.push_async_callback(part.close)
            return part
        return None

    def _failed(self, name: str, about: str, what: str) -> None:
        self.found.append(refused(name, about, what, REMEDIES[name]))


async def examined(
    environ: Mapping[str, str],
    *,
    bind: str = "127.0.0.1",
    port: int = 8700,
    outbound: Outbound | None = None,
    clock: Clock | None = None,
) -> list[Finding]:
    """Examine the host that this environment makes. Raises nothing: what can't be had is a finding."""
    try:
        settings, local = settings_of(environ, bind, port)
    except ConfigError as error:
        return [_unusable(environ, each) for each in error.problems]
    found = [good("configuration", environ["BUSPASS_CONFIG"], f"usable, and unaltered; revision {settings.revision}")]
    try:
        host = host_of(settings, environ)
    except ConfigError as error:
        return [*found, *(_unusable(environ, each) for each in error.problems)]
    clock = clock or SystemClock()
    opening = _Opening(found)
    async with opening.closing:
        if outbound is None:
            opening.closing.push_async_callback((outbound := HttpxOutbound()).close)
        patient = await _opened(opening, settings, host, environ, Watched(outbound, clock), clock, local=local)
        return [*found, *await examine(patient)]


def _unusable(environ: Mapping[str, str], problem: str) -> Finding:
    if "BUSPASS_HOST" in problem:
        return refused("host", environ.get("BUSPASS_HOST", ""), problem, "set BUSPASS_HOST to a host of the file")
    remedy = "mend it and ask `buspass check FILE`; a compiled one is made again by `buspass check --compile`"
    return refused("configuration", environ.get("BUSPASS_CONFIG", ""), problem, remedy)


async def _opened(
    opening: _Opening,
    settings: Settings,
    host: Host,
    environ: Mapping[str, str],
    outbound: Watched,
    clock: Clock,
    *,
    local: bool,
) -> Patient:
    data, scheme = data_of(environ), host.signer.partition(":")[0]

    async def secrets() -> Any:
        return secrets_of(environ)

    async def domain_key() -> Any:
        return await domain_key_of(settings, store, data, create=False)

    store = await opening.part("secrets", environ.get("BUSPASS_SECRETS", "environment"), secrets)
    shared = None if store is None else await opening.part("domain_key", settings.domain_key or str(data), domain_key)
    operator = None
    if local and (data / "operator.key").exists():
        operator = await opening.part("operator", str(data), lambda: adapter("keys", "operator")(data, create=False))
    return Patient(
        settings=settings,
        host=host,
        environ=environ,
        clock=clock,
        outbound=outbound,
        secrets=store,
        domain_key=shared,
        signer=await opening.part(
            "signer", scheme, lambda: adapter("signer", scheme)(host.signer, data=data, create=False), closes=True
        ),
        state=await opening.part("state", host.name, lambda: opened("state", host.state), closes=True),
        blobs=await opening.part("blobs", host.name, lambda: opened("blobs", host.blobs), closes=True),
        operator_key=operator,
    )
