"""The way to Redis: its URL, connections, the nodes of a cluster, and what an error says about a command's fate.

Owns sockets, and who holds which slot. Refuses to know items. A connection is made before a command is sent on it, so
that a refused one (surely not applied) is told from a lost answer. Nothing that was sent is sent again, but what a
server surely did not take: MOVED, ASK, NOSCRIPT, TRYAGAIN.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import redis.exceptions as errors
from msgspec import Struct, field
from redis.asyncio.connection import BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from buspass.ports.secrets import SecretMissing
from buspass.ports.state import OutcomeUnknown, Unavailable
from buspass_onprem.secrets import HostSecrets

type Command = tuple[str | bytes | int, ...]
type Node = tuple[str, int]

TIMEOUT: Final = 5.0
"""Seconds to connect, and to answer."""
CONNECTIONS: Final = 32
"""For each node; who finds all at work waits."""
HOPS: Final = 6
"""How often a command follows the cluster's pointers to another node."""
OPTIONS: Final = ("tls", "cluster", "replicas", "user", "password", "prefix")
ALLOWED: Final = (
    "redis://HOST[:PORT][/DATABASE]?tls=on&cluster=on&replicas=N&user=NAME&password=SECRET&prefix=NAME, each if need be"
)
_REFUSED: Final = (
    errors.BusyLoadingError,
    errors.OutOfMemoryError,
    errors.ReadOnlyError,
    errors.ClusterDownError,
    errors.MasterDownError,
    errors.TryAgainError,
    errors.AuthenticationError,
    errors.AuthorizationError,
    errors.NoPermissionError,
)
"""Errors by which a server says that it did not begin."""
_REFUSED_WORDS: Final = (
    "MISCONF",
    "NOREPLICAS",
    "BUSY ",
    "LOADING",
    "MASTERDOWN",
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "OOM",
)


class Address(Struct, frozen=True, kw_only=True):
    """What a URL says. `replicas` that must have a write before it counts as answered; `password`: a secret's name."""

    host: str
    port: int
    database: int
    user: str | None
    tls: bool
    cluster: bool
    replicas: int
    password: str | None
    prefix: str


def parse(url: str) -> Address:
    """Read the URL of a store. Raises ValueError that says what is allowed."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    database = parts.path.removeprefix("/")
    if parts.scheme != "redis" or not parts.hostname or parts.fragment or (database and not database.isdigit()):
        raise ValueError(f"state {_shown(url)}: allowed is {ALLOWED}")
    if "@" in parts.netloc:
        raise ValueError(f"state {_shown(url)}: a URL holds no user or password; allowed is ?user=NAME&password=SECRET")
    unknown = [name for name in options if name not in OPTIONS]
    if unknown or len(options) < len(pairs):
        raise ValueError(f"state {_shown(url)}: parameter {(unknown or ['given twice'])[0]!r}; allowed is {ALLOWED}")
    for name in ("tls", "cluster"):
        if options.get(name, "off") not in {"on", "off"}:
            raise ValueError(f"state {_shown(url)}: {name}={options[name]!r}; allowed are on and off")
    replicas, prefix = options.get("replicas", "0"), options.get("prefix", "buspass")
    if not replicas.isdigit() or int(replicas) > 5:
        raise ValueError(f"state {_shown(url)}: replicas={replicas!r}; allowed are 0-5")
    if not prefix.replace("-", "").replace("_", "").isalnum() or not prefix.isascii():
        raise ValueError(f"state {_shown(url)}: prefix={prefix!r}; allowed are letters, digits, - and _")
    cluster = options.get("cluster") == "on"
    if cluster and database not in {"", "0"}:
        raise ValueError(f"state {_shown(url)}: database {database}; a cluster has database 0 only")
    return Address(
        host=parts.hostname,
        port=parts.port or 6379,
        database=int(database or 0),
        user=options.get("user") or None,
        tls=options.get("tls") == "on",
        cluster=cluster,
        replicas=int(replicas),
        password=options.get("password") or None,
        prefix=prefix,
    )


def _shown(url: str) -> str:
    """Give the URL without what may be a password."""
    before, at, after = url.rpartition("@")
    return repr(f"{before.partition('://')[0]}://…@{after}" if at else url)


class Script(Struct):
    """A Lua script and the digest by which servers know it."""

    text: str
    digest: str


class Nodes(Struct):
    """Connections to one server, or to a cluster's primaries as they are found."""

    address: Address
    secret: str | None
    pools: dict[Node, BlockingConnectionPool] = field(default_factory=dict)
    slots: dict[int, Node] = field(default_factory=dict)

    async def call(self, key: str, *command: str | bytes | int) -> Any:
        """Send one command to the node of `key`. Raises Unavailable and OutcomeUnknown."""
        return (await self._routed(key, command))[0]

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        """Run a script at the node of its keys, and wait for as many replicas as the URL says."""
        return (await self._routed(keys[0], (script, len(keys), *keys, *arguments)))[0]

    async def primaries(self) -> list[Node]:
        """Give the nodes that take writes. Raises Unavailable."""
        if self.address.cluster:
            await self._learn()
            return sorted(set(self.slots.values()))
        return [(self.address.host, self.address.port)]

    async def ask(self, node: Node, *command: str | bytes | int) -> Any:
        """Send a command that changes nothing to this very node. Raises Unavailable."""
        try:
            return (await self._exchange(node, [command]))[0]
        except (OutcomeUnknown, errors.RedisError) as error:
            raise Unavailable(0, f"{_name(node)}: {error}") from error

    async def close(self) -> None:
        for pool in self.pools.values():
            await pool.disconnect()

    # ── one command ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _routed(self, key: str, command: tuple[Any, ...]) -> list[Any]:
        node, asking, pause = await self._node(key), False, 0.01
        for _ in range(HOPS):
            try:
                return await self._sent(node, command, asking=asking)
            except errors.AskError as error:  # a slot on its way: this once, over there
                node, asking = (error.host or node[0], error.port), True
            except errors.MovedError as error:
                node, asking = (error.host or node[0], error.port), False
                self.slots[error.slot_id] = node
            except errors.TryAgainError:
                await asyncio.sleep(pause)
                pause *= 2
            except Unavailable:
                self.slots.clear()  # a primary that can't be reached may have been replaced: ask anew next time
                raise
        raise Unavailable(0, f"{_name(node)}: the cluster points from node to node")

    async def _sent(self, node: Node, command: tuple[Any, ...], *, asking: bool) -> list[Any]:
        before: list[Command] = [("ASKING",)] if asking else []
        first, *rest = command
        if not isinstance(first, Script):
            return (await self._exchange(node, [*before, command]))[len(before) :]
        wait: list[Command] = [("WAIT", self.address.replicas, int(TIMEOUT * 1000))] if self.address.replicas else []
        try:
            answers = await self._exchange(node, [*before, ("EVALSHA", first.digest, *rest), *wait])
        except errors.NoScriptError:
            answers = await self._exchange(node, [*before, ("EVAL", first.text, *rest), *wait])
        answers = answers[len(before) :]
        if wait and answers[0][0] == 0 and answers[1] < self.address.replicas:
            raise OutcomeUnknown(0, f"{_name(node)}: {answers[1]} of {self.address.replicas} replicas have the write")
        return answers

    async def _exchange(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        pool = self._pool(node)
        try:
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # the library types it by a decorator
        except (errors.RedisError, OSError) as error:
            raise Unavailable(0, f"{_name(node)}: {error}") from error
        try:
            return await _talk(connection, commands)
        except (errors.ConnectionError, errors.TimeoutError, OSError) as error:
            if isinstance(error, _REFUSED):
                raise Unavailable(0, f"{_name(node)}: {error}") from error
            raise OutcomeUnknown(0, f"{_name(node)}: {error}") from error
        except (errors.MovedError, errors.AskError, errors.TryAgainError, errors.NoScriptError):
            raise
        except errors.ResponseError as error:
            if isinstance(error, _REFUSED) or str(error).startswith(_REFUSED_WORDS):
                raise Unavailable(0, f"{_name(node)}: {error}") from error
            raise OutcomeUnknown(0, f"{_name(node)}: {error}") from error
        finally:
            await asyncio.shield(pool.release(connection))

    # ── nodes ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _node(self, key: str) -> Node:
        if not self.address.cluster:
            return self.address.host, self.address.port
        slot = key_slot(key.encode())
        if slot not in self.slots:
            await self._learn()
        if slot not in self.slots:
            raise Unavailable(0, f"no node of the cluster holds slot {slot}")
        return self.slots[slot]

    async def _learn(self) -> None:
        """Ask whoever answers which node holds which slot."""
        seeds: list[Node] = [(self.address.host, self.address.port), *self.pools]
        why = ""
        for seed in dict.fromkeys(seeds):
            try:
                ranges = await self.ask(seed, "CLUSTER", "SLOTS")
            except Unavailable as error:
                why = str(error)
                continue
            for first, last, (host, port, *_), *_replicas in ranges:
                node = (host.decode() or seed[0], port)
                self.slots.update(dict.fromkeys(range(first, last + 1), node))
            return
        raise Unavailable(0, why)

    def _pool(self, node: Node) -> BlockingConnectionPool:
        if node not in self.pools:
            address = self.address
            self.pools[node] = BlockingConnectionPool(
                connection_class=SSLConnection if address.tls else Connection,
                max_connections=CONNECTIONS,
                timeout=TIMEOUT,
                host=node[0],
                port=node[1],
                db=address.database,
                username=address.user,
                password=self.secret,
                socket_timeout=TIMEOUT + (TIMEOUT if address.replicas else 0),
                socket_connect_timeout=TIMEOUT,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
            )
        return self.pools[node]


async def _talk(connection: Any, commands: Sequence[Command]) -> list[Any]:
    """Send commands at once and read every answer, so that none is left for the next one; the first error is raised."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    answers: list[Any] = []
    failed: Exception | None = None
    for _ in commands:
        try:
            answers.append(await connection.read_response(disable_decoding=True, disconnect_on_error=False))
        except errors.ResponseError as error:
            failed = failed or error
        except BaseException:
            await connection.disconnect(nowait=True)  # what is still to come belongs to nobody
            raise
    if failed is not None:
        raise failed
    return answers


def _name(node: Node) -> str:
    return f"redis {node[0]}:{node[1]}"


async def connected(address: Address) -> Nodes:
    """Give the nodes of an address. Raises ValueError where its secret is missing."""
    secret = None
    if address.password:
        try:
            secret = await HostSecrets(os.environ).get(address.password)
        except SecretMissing as error:
            raise ValueError(f"state redis://{address.host}: {error}") from error
    return Nodes(address, secret)
