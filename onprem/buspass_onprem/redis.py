"""Redis, or Valkey, as a state store: one script an apply, one hash slot a partition, so that a cluster serves it too.

Owns the port's methods. Refuses to know connections (`redis_nodes`) and how an item lies there (`redis_script`).

An apply judges everything before it writes anything, so after a refusal nothing of it stands. An index entry lies in
another slot than its item: it is written before the item, and what it replaces is withdrawn after. Each entry has a
nonce that the item's own slot keeps; `find` gives only entries whose nonce stands, and drops the others after a minute.

What this store can lose is a matter of how Redis is run; docs/stores.md has the table. A primary that fails over to a
replica without the last writes **may overspend**: holds that it answered are gone. `?replicas=N` lets an apply count
only when N replicas have it, which makes that rare, not impossible.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from buspass.ports.state import (
    Applied,
    Item,
    Misfit,
    Operation,
    Ordinary,
    OutcomeUnknown,
    Refused,
    State,
    Unavailable,
    check,
    check_names,
    check_page,
    plain,
)
from buspass_onprem.redis_nodes import Node, Nodes, Script, connected, parse
from buspass_onprem.redis_script import APPLY, LIST, document, index_of, item_of, tagged

STALE: Final = 60_000
"""Milliseconds after which an index entry that its item does not know was left by a crash."""


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_APPLY: Final = _script(APPLY)
_LIST: Final = _script(LIST)


async def open(url: str) -> State:  # noqa: A001  (the name of every adapter's way in)
    """Open `redis://HOST[:PORT][/DATABASE]?tls=on&cluster=on&replicas=N&user=NAME&password=SECRET&prefix=NAME`.

    Raises ValueError for a bad URL, and for a server that evicts keys when its memory is full: an account that is
    evicted is a budget that begins anew. Raises Unavailable where nobody answers.
    """
    nodes = await connected(parse(url))
    try:
        for node in await nodes.primaries():
            _keeps_all(node, await nodes.ask(node, "INFO", "memory"))
    except BaseException:
        await nodes.close()
        raise
    return RedisState(nodes)


def _keeps_all(node: Node, info: bytes) -> None:
    facts = {name: value for name, _, value in (line.partition(":") for line in info.decode().splitlines())}
    policy = facts.get("maxmemory_policy", "unknown")
    if facts.get("maxmemory") != "0" and policy != "noeviction":
        raise ValueError(
            f"state redis://{node[0]}:{node[1]}: maxmemory-policy is {policy}; allowed is noeviction, "
            "because an account that is evicted is a budget that begins anew"
        )


class RedisState:
    """The port over an open server or cluster."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._prefix = nodes.address.prefix
        self._closed = False
        self._at_work = 0
        self._idle = asyncio.Event()

    async def read(self, partition: str, key: str) -> Item | None:
        check_names(partition, key)
        async with self._reading():
            return item_of(await self._nodes.call(name := self._key(partition, f"item:{key}"), "HGETALL", name))

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        check_names(partition)
        check_page(limit, prefix, after)
        low = f"({after}" if after and after >= prefix else f"[{prefix}" if prefix else "-"
        async with self._reading():
            flat = await self._nodes.run(
                _LIST,
                [self._key(partition, "keys")],
                [low, f"({prefix}\x7f", limit, self._key(partition, "item:")],  # names are printable: \x7f ends them
            )
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return [(key.decode(), item) for key, pairs_of in pairs if (item := item_of(pairs_of)) is not None]

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        check_names(index, shard)
        check_page(limit, until)
        place, low = self._index(index, shard), b"-"
        found: list[tuple[str, str]] = []
        async with self._reading():
            while len(found) < limit:
                page = await self._nodes.call(
                    place, "ZRANGEBYLEX", place, low, f"({until}\x01", "LIMIT", 0, limit - len(found)
                )
                if not page:
                    return found
                standing = await asyncio.gather(*(self._stands(index, shard, member) for member in page))
                found += [_placed(member) for member, stands in zip(page, standing, strict=True) if stands]
                low = b"(" + page[-1]
        return found

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        check_names(partition)
        check(operations)
        async with self._working():
            return await self._apply(partition, [plain(operation) for operation in operations])

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._at_work:
            await self._idle.wait()
        await self._nodes.close()

    # ── apply, and the entries of its items ─────────────────────────────────────────────────────────────────────

    async def _apply(self, partition: str, operations: Sequence[Ordinary]) -> Applied | Refused:
        indexes = [index_of(operation) for operation in operations]
        nonce = f"{int(time.time() * 1000)}-{uuid.uuid4().hex[:12]}" if any(indexes) else ""
        entries = [
            {name: None if entry is None else "\0".join((*entry, nonce)) for name, entry in index.items()}
            for index in indexes
        ]
        written = [
            (operation.key, name, entry)
            for operation, named in zip(operations, entries, strict=True)
            for name, entry in named.items()
            if entry is not None
        ]
        await self._enter(partition, written)
        keys = [self._key(partition, "keys")]
        for operation in operations:
            keys += [self._key(partition, f"{kind}:{operation.key}") for kind in ("item", "hint")]
        try:
            index, answer, old = await self._nodes.run(_APPLY, keys, [document(operations, entries)])
        except Unavailable:
            await self._withdraw(partition, written)
            raise
        if index:
            await self._withdraw(partition, written)
            if index < 0:
                raise Misfit(-index - 1, f"{operations[-index - 1].key!r}: {answer.decode()}")
            return Refused(index - 1, item_of(answer))
        left = [
            (operations[int(number) - 1].key, name.decode(), entry.decode())
            for name, entry, number in zip(old[::3], old[1::3], old[2::3], strict=True)
        ]
        await self._withdraw(partition, left)
        return Applied(item_of(answer))

    async def _enter(self, partition: str, written: Sequence[tuple[str, str, str]]) -> None:
        for key, name, entry in written:
            shard, sort, nonce = entry.split("\0")
            place = self._index(name, shard)
            try:
                await self._nodes.call(place, "ZADD", place, 0, f"{sort}\0{partition}\0{key}\0{nonce}")
            except OutcomeUnknown as error:  # of the hint; the operations were not sent
                raise Unavailable(0, error.why) from error

    async def _withdraw(self, partition: str, left: Sequence[tuple[str, str, str]]) -> None:
        for key, name, entry in left:
            shard, sort, nonce = entry.split("\0")
            place = self._index(name, shard)
            with suppress(Unavailable, OutcomeUnknown):  # `find` drops it, then
                await self._nodes.call(place, "ZREM", place, f"{sort}\0{partition}\0{key}\0{nonce}")

    async def _stands(self, index: str, shard: str, member: bytes) -> bool:
        """Say whether the item has this very entry; drop one that a crash left."""
        sort, partition, key, nonce = member.decode().split("\0")
        hints = self._key(partition, f"hint:{key}")
        if await self._nodes.call(hints, "HGET", hints, index) == f"{shard}\0{sort}\0{nonce}".encode():
            return True
        if int(nonce.partition("-")[0]) < time.time() * 1000 - STALE:
            place = self._index(index, shard)
            await self._nodes.call(place, "ZREM", place, member)
        return False

    # ── names and errors ────────────────────────────────────────────────────────────────────────────────────────

    def _key(self, partition: str, rest: str) -> str:
        return f"{self._prefix}{{{tagged(partition)}}}{rest}"

    def _index(self, name: str, shard: str) -> str:
        return f"{self._prefix}{{{name}:{tagged(shard)}}}index"

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        if self._closed:
            raise Unavailable(0, "the store is closed")
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            if self._closed and not self._at_work:
                self._idle.set()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        async with self._working():
            try:
                yield
            except OutcomeUnknown as error:
                raise Unavailable(0, error.why) from error


def _placed(member: bytes) -> tuple[str, str]:
    _, partition, key, _ = member.decode().split("\0")
    return partition, key
