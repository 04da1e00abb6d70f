"""What a host is made of, once built: every room and port that a call meets. Nothing here is global."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property

from msgspec import Struct

from buspass.alerts import Alerts
from buspass.breakers import Breakers, Key
from buspass.calls.lanes import Alias, Service, aliases, services, watched
from buspass.config.settings import Host, Settings, Workflow
from buspass.errors import Problem
from buspass.identity.keyring import Keyring
from buspass.identity.oidc import OidcVerifier
from buspass.identity.peers import PeerTokens
from buspass.identity.tokens import TaskTokens
from buspass.identity.txn import TxnTokens
from buspass.journal import Journal, Sealer, Vault
from buspass.ledger import Delegations, Ledger
from buspass.ledger.pools import Pools
from buspass.model import Limits
from buspass.policy.decide import Policy
from buspass.ports.clock import Clock
from buspass.ports.outbound import Outbound
from buspass.ports.secrets import SecretMissing, Secrets
from buspass.ports.signer import Signer
from buspass.ports.state import State
from buspass.rates import Rates
from buspass.reports import Rollups
from buspass.routing.retries import Retries
from buspass.stops import Stops
from buspass.tasks import Licences, Task, Tasks
from buspass.tasks.keys import Keys


class House(Struct, frozen=True, kw_only=True, dict=True):
    """One host, composed. `operator_key` is the loopback operator's bearer, where there is one.

    `beside(NAME)` gives the same host at work on the store of another host of its domain: itself where that is its own.
    `place` names the host whose store this one is.
    """

    settings: Settings
    host: Host
    limits: Limits
    clock: Clock
    state: State
    outbound: Outbound
    secrets: Secrets
    signer: Signer
    keyring: Keyring
    tokens: TaskTokens
    txn: TxnTokens
    oidc: OidcVerifier
    peers: PeerTokens
    policy: Policy
    tasks: Tasks
    keys: Keys
    licences: Licences
    ledger: Ledger
    delegations: Delegations
    pools: Pools
    breakers: Breakers
    stops: Stops
    alerts: Alerts
    retries: Retries
    rates: Rates
    journal: Journal
    sealer: Sealer
    rollups: Rollups
    vault: Vault
    place: str
    beside: Callable[[str], Awaitable[House]]
    operator_key: str | None = None

    @cached_property
    def aliases(self) -> Mapping[str, Alias]:
        """What agents name as a model, by that name."""
        return aliases(self.settings)

    @cached_property
    def services(self) -> Mapping[str, Service]:
        """What stands behind each tool, by the tool's name."""
        return services(self.settings)

    @cached_property
    def watched(self) -> Sequence[Key]:
        """The breakers of everything that the configuration names: targets, and services behind tools."""
        return watched(self.aliases.values(), self.services.values())

    def workflow(self, name: str) -> Workflow:
        """Give a workflow of this revision. Raises Problem denied for one that is no longer configured."""
        if (found := self.settings.workflows.get(name)) is None:
            raise Problem("denied", f"workflow {name!r} is not configured at this host any more", reasons=["workflow"])
        return found

    async def secret(self, name: str) -> str:
        """Look a secret up. Raises Problem internal that names it, never its value."""
        try:
            return await self.secrets.get(name)
        except SecretMissing as error:
            raise Problem("internal", f"the host has no secret {name!r}; its operator must set it") from error

    def task_key(self, task: Task) -> bytes:
        """Open a task's key. Raises journal.Erased once it was erased."""
        return self.vault.unwrap(task.id, task.wrapped_key)
