"""The composition root: from environment and configuration to a running application.

Owns the order in which a host comes up: configuration, keys, stores, rooms, published key. Nothing is global, so a
process may hold several hosts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from inspect import markcoroutinefunction
from pathlib import Path
from typing import Any

from msgspec import Struct

from buspass.alerts import Alerts
from buspass.breakers import Breakers
from buspass.calls.house import House
from buspass.config import compiled
from buspass.config.settings import Host, Settings
from buspass.errors import ConfigError
from buspass.http.adapters import adapter, opened, secrets_of
from buspass.http.app import routed
from buspass.http.asgi import Receive, Scope, Send
from buspass.http.sections import Sections
from buspass.http.stores import Build, Open, Stores
from buspass.identity.domain import DomainKey
from buspass.identity.keyring import Keyring
from buspass.identity.local import LocalIssuer
from buspass.identity.oidc import OidcVerifier
from buspass.identity.peers import PeerTokens
from buspass.identity.tokens import TaskTokens
from buspass.identity.txn import TxnTokens
from buspass.journal import Journal, Sealer, Vault
from buspass.ledger import Delegations, Ledger
from buspass.ledger.pools import Pools
from buspass.model import Limits
from buspass.policy.decide import Policy
from buspass.ports import sound
from buspass.ports.blobs import Blobs
from buspass.ports.clock import Clock, SystemClock
from buspass.ports.outbound import Outbound
from buspass.ports.outbound_httpx import HttpxOutbound
from buspass.ports.outbound_pyreqwest import PyreqwestOutbound
from buspass.ports.policy import PolicyEngine
from buspass.ports.secrets import SecretMissing, Secrets
from buspass.ports.signer import Signer
from buspass.ports.state import State
from buspass.providers import openai
from buspass.rates import Rates
from buspass.reporting import Folding
from buspass.reports import TAIL, Rollups, tail
from buspass.routing.retries import Retries
from buspass.stops import Stops
from buspass.surfaces import registry
from buspass.tasks import Licences, Tasks
from buspass.tasks.keys import Keys

DEFAULT_DATA = "~/.local/share/buspass"


class Application:
    """The ASGI application of one host. `house` is what it is made of, for whoever runs it in process."""

    def __init__(self, house: House, blobs: Blobs, stores: Stores, discovery: Outbound) -> None:
        self.house = house
        self.limits = house.limits
        self._blobs = blobs
        self._stores = stores
        self._discovery = discovery
        self._sections = Sections(house)
        self._routed = routed(house, self._sections)

    @markcoroutinefunction  # what servers tell ASGI 3 by
    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Serve one request (ASGI 3); a WebSocket is refused at once."""
        return self._routed(scope, receive, send)

    def warm(self) -> None:
        """Have at once what a request would load later: a host that lives long does so as it starts."""
        self._sections.warm()
        registry.warm()
        openai.warm()
        sound.warm()

    async def mint_workload(self, agent: str) -> str:
        """Vouch for a workload as the local issuer. Raises ConfigError where this host has none."""
        if not self.house.settings.local_issuer:
            raise ConfigError(["identity: this host has real issuers; ask one of them for a workload's token"])
        house = self.house
        return await LocalIssuer(house.settings.issuer, house.signer, house.keyring, house.clock).mint_workload(agent)

    async def tick(self, seconds: float) -> int:
        """Look after what is due, for `seconds` at most; say how much that was. Raises Problem state_unavailable."""
        from buspass.timer import tick  # noqa: PLC0415 - no call needs it, and a cold start is short

        return await tick(self.house, seconds=seconds)

    async def keep(self) -> None:
        """Do that again and again, on a host that runs all the time, until it is cancelled."""
        from buspass.timer import keep  # noqa: PLC0415 - as in tick

        await keep(self.house)

    async def close(self) -> None:
        """Let go of stores and connections."""
        await self.house.outbound.close()
        await self._discovery.close()
        await self._stores.close()
        await self._blobs.close()
        await self.house.signer.close()


class Parts(Struct, frozen=True, kw_only=True):
    """What a host is made of apart from its store. `discovery` fetches issuers' documents; `operator` is a bearer."""

    settings: Settings
    host: Host
    limits: Limits
    clock: Clock
    blobs: Blobs
    secrets: Secrets
    signer: Signer
    keyring: Keyring
    domain_key: DomainKey
    outbound: Outbound
    discovery: Outbound
    operator: str | None
    beside: Callable[[str], Awaitable[House]]


async def start(
    environ: Mapping[str, str],
    limits: Limits,
    *,
    bind: str = "127.0.0.1",
    port: int = 8700,
    document: bytes | None = None,
    dispatch: Callable[[], Outbound] = PyreqwestOutbound,
) -> Application:
    """Bring a host up from `BUSPASS_CONFIG`, `BUSPASS_HOST` and `BUSPASS_DATA`. Raises ConfigError.

    `document`: what was compiled of BUSPASS_CONFIG just now, for this bind and port. `dispatch` makes what governed
    calls go out by.
    """
    return await composed(environ, limits, bind=bind, port=port, document=document, dispatch=dispatch)


async def composed(
    environ: Mapping[str, str],
    limits: Limits,
    *,
    bind: str = "127.0.0.1",
    port: int = 8700,
    outbound: Outbound | None = None,
    clock: Clock | None = None,
    state: State | None = None,
    blobs: Blobs | None = None,
    opening: Open | None = None,
    document: bytes | None = None,
    dispatch: Callable[[], Outbound] = PyreqwestOutbound,
) -> Application:
    """Do what `start` does, with parts handed in. `opening` opens the stores of other hosts of the domain."""
    settings, local = settings_of(environ, bind, port, document)
    host, data, secrets = host_of(settings, environ), data_of(environ), secrets_of(environ)
    clock, discovery = clock or SystemClock(), outbound or HttpxOutbound()
    domain_key = await domain_key_of(settings, secrets, data, create=local)
    operator: str | None = await adapter("keys", "operator")(data, create=True) if local else None
    signer: Signer = await adapter("signer", host.signer.partition(":")[0])(host.signer, data=data, create=local)
    async with AsyncExitStack() as unfinished:  # what was opened here is closed again where the host does not come up
        unfinished.push_async_callback(signer.close)
        if state is None:
            unfinished.push_async_callback((state := await opened("state", host.state)).close)
        if blobs is None:
            unfinished.push_async_callback((blobs := await opened("blobs", host.blobs)).close)
        if outbound is None:
            unfinished.push_async_callback((outbound := dispatch()).close)
        ringing = partial(Keyring, signer=signer, host=host.name, domain_key=domain_key, clock=clock)
        await (keyring := ringing(state)).publish()
        stores = Stores(settings.hosts, opening or partial(opened, "state"), ringing)
        parts = Parts(
            settings=settings,
            host=host,
            limits=limits,
            clock=clock,
            blobs=blobs,
            secrets=secrets,
            signer=signer,
            keyring=keyring,
            domain_key=domain_key,
            outbound=outbound,
            discovery=discovery,
            operator=operator,
            beside=stores.beside,
        )
        application = Application(stores.begin(host.name, state, keyring, _builder(parts)), blobs, stores, discovery)
        unfinished.pop_all()
        return application


def settings_of(
    environ: Mapping[str, str], bind: str, port: int, document: bytes | None = None
) -> tuple[Settings, bool]:
    """Give the settings, and whether this host is its user's alone, so that it may make its own keys.

    What was compiled for a bind that others can reach is not, wherever it listens: on Lambda and Functions the gateway
    itself listens nowhere, and the whole world is before it.
    """
    named = environ.get("BUSPASS_CONFIG")
    if not named:
        raise ConfigError(["BUSPASS_CONFIG is not set: it names the host's buspass.yaml"])
    path = Path(named)
    if document is not None:
        return compiled.read(document, path, environ, bind), _loopback(bind)
    if path.is_file() and compiled.is_compiled(source := path.read_bytes()):
        return compiled.read(source, path, environ, bind), _loopback(bind) and compiled.for_loopback(source)
    from buspass.config.build import load  # noqa: PLC0415 - YAML and pydantic stay off hosts with a compiled bundle

    return load(path, environ=environ, bind=bind, port=port), _loopback(bind)


def data_of(environ: Mapping[str, str]) -> Path:
    """Give the data directory."""
    return Path(environ.get("BUSPASS_DATA", DEFAULT_DATA)).expanduser()


def host_of(settings: Settings, environ: Mapping[str, str]) -> Host:
    """Give the host that BUSPASS_HOST names. Raises ConfigError."""
    name = environ.get("BUSPASS_HOST")
    known = ", ".join(settings.hosts)
    if name is None and len(settings.hosts) == 1:
        return next(iter(settings.hosts.values()))
    if name is None or name not in settings.hosts:
        raise ConfigError([f"BUSPASS_HOST={name or ''}: it must name one of hosts: {known}"])
    return settings.hosts[name]


async def domain_key_of(settings: Settings, secrets: Secrets, data: Path, *, create: bool) -> DomainKey:
    """Give the key that the domain's hosts share; `create` a missing one in the data directory. Raises ConfigError."""
    if settings.domain_key is None:
        found: DomainKey = await adapter("keys", "domain")(data, create=create)
        return found
    try:
        return DomainKey.from_text(await secrets.get(settings.domain_key))
    except SecretMissing as error:
        raise ConfigError([f"domain_key: {error}"]) from error
    except ValueError as error:
        raise ConfigError([f"domain_key: secret {settings.domain_key}: {error}"]) from error


def _loopback(bind: str) -> bool:
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


def _engine(settings: Settings, outbound: Outbound, clock: Clock) -> PolicyEngine:
    from buspass.policy.engines import engine  # noqa: PLC0415 - only where a module exists
    from buspass.policy.lint import lint  # noqa: PLC0415

    if faults := lint(settings.policy):  # the engine would take an unknown name for false, and a denial would vanish
        raise ConfigError(faults)
    return engine(settings.policy, settings.opa, outbound, clock)


def _builder(parts: Parts) -> Build:
    """Give what makes a house of a store: everything else is this host's, whatever the store. Raises ConfigError."""
    settings, clock, signer = parts.settings, parts.clock, parts.signer
    journal = Journal(parts.domain_key.derive("journal-mac"))
    engine = _engine(settings, parts.outbound, clock) if settings.policy else None
    local = LocalIssuer(settings.issuer, signer, parts.keyring, clock) if settings.local_issuer else None
    oidc = OidcVerifier(settings.identity, parts.discovery, clock, local=local)
    policy, vault = Policy(engine, settings.policy), Vault(parts.blobs, parts.domain_key.derive("task-key-wrap"))

    retries, peers = Retries(), PeerTokens(settings.issuer, settings.peers, signer, parts.discovery, clock)

    def build(state: State, keyring: Keyring, place: str) -> House:
        rollups = Rollups(state)
        sealer = Sealer(state, signer, clock, Folding(rollups).sealed)
        return House(
            settings=settings,
            host=parts.host,
            limits=parts.limits,
            clock=clock,
            state=state,
            outbound=parts.outbound,
            secrets=parts.secrets,
            signer=signer,
            keyring=keyring,
            tokens=TaskTokens(settings.issuer, signer, keyring, clock),
            txn=TxnTokens(settings.issuer, signer, clock),
            oidc=oidc,
            peers=peers,
            policy=policy,
            tasks=Tasks(state, clock, journal.stamp, journal.genuine, {TAIL: tail}),
            keys=Keys(state, clock, journal.stamp, journal.genuine),
            licences=Licences(state, journal.genuine),
            ledger=Ledger(state, clock, journal.stamp, sealer.wrote, journal.put),
            delegations=Delegations(state, clock, journal.stamp),
            pools=Pools(state, clock),
            breakers=Breakers(state, clock),
            alerts=Alerts(state, clock, settings.webhooks),
            stops=Stops(state, clock, journal.stamp, journal.genuine),
            retries=retries,
            rates=Rates(state, clock),
            journal=journal,
            sealer=sealer,
            rollups=rollups,
            vault=vault,
            place=place,
            beside=parts.beside,
            operator_key=parts.operator,
        )

    return build
