"""Keys in the store: agents without OIDC call with one, in its standing task.

Owns the partition `keys` (an item each, with a MAC under the domain key: who can write to the database makes no key and
widens none) and the pointer to a session's generation. Gives a key from memory for five seconds, so a change is seen
everywhere that soon. Refuses to know secrets (digests come to it), money and how a task begins.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, cast
from weakref import WeakValueDictionary

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from buspass.errors import Problem
from buspass.ports.clock import Clock
from buspass.ports.state import (
    Applied,
    Equals,
    Item,
    Operation,
    OutcomeUnknown,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    Value,
    answered,
)
from buspass.tasks.store import unavailable

PARTITION: Final = "keys"
IDENTITY: Final = "key"
"""The identity of a key's principal, `key:NAME`."""
FRESH: Final = 5.0
"""Seconds that a host goes by what it read of a key."""
KEPT: Final = 4096
TRIES: Final = 8
log = logging.getLogger("buspass")


class Key(Struct, frozen=True, kw_only=True):
    """What an operator made. Times in ms, 0 for never; `digest` and `previous` are hex SHA-256 of secrets.

    `models`: a subset of the workflow's, empty for all. `budget`: narrows the workflow's for each standing task.
    `previous` is good until `previous_until`. `stopped` names the killed task; `cleared`: when such a stop was lifted.
    """

    id: str
    name: str
    workflow: str
    pool: str
    digest: str
    created_at: int
    created_by: str
    models: tuple[str, ...] = ()
    budget: Mapping[str, Any] = field(default_factory=dict)
    expires_at: int = 0
    revoked_at: int = 0
    rotated_at: int = 0
    previous: str = ""
    previous_until: int = 0
    stopped: str = ""
    cleared: int = 0
    version: int = 1


class Standing(Struct, frozen=True, kw_only=True):
    """The standing task that a session of a key is in: its id and its generation, from 0."""

    task: str
    generation: int


type Stamp = Callable[[str, str, Mapping[str, Value]], Item]
type Genuine = Callable[[str, str, Item], bool]


class Keys:
    """The keys of one trust domain, as one host knows them. `stamp` and `genuine` are the journal's."""

    def __init__(self, state: State, clock: Clock, stamp: Stamp, genuine: Genuine) -> None:
        self._state = state
        self._clock = clock
        self._stamp = stamp
        self._genuine = genuine
        self._known: OrderedDict[str, tuple[float, Key | None]] = OrderedDict()
        self._standing: OrderedDict[tuple[str, str], Standing] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # ── look ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, key: str) -> Key | None:
        """Give a key as it was at most five seconds ago; None for one that nobody made."""
        if (known := self._fresh(key)) is not None:
            return known[1]
        async with self.alone(key):  # of many calls at once one reads
            return known[1] if (known := self._fresh(key)) is not None else await self.look(key)

    def _fresh(self, key: str) -> tuple[float, Key | None] | None:
        known = self._known.get(key)
        return known if known is not None and self._clock.monotonic() - known[0] < FRESH else None

    async def look(self, key: str) -> Key | None:
        """Read a key as it is now. One without our MAC is none."""
        before = self._clock.monotonic()
        item = await self._read(PARTITION, key)
        found = self._read_item(key, item) if item else None
        self._remember(key, before, found)
        return found

    def _read_item(self, key: str, item: Item) -> Key | None:
        if not self._genuine(PARTITION, key, item):
            log.error("the item of key %s was not written by a host of this domain: it is ignored", key)
            return None
        row = cast("Mapping[str, Any]", item)
        shape = {name: row[name] for name in Key.__struct_fields__}
        return Key(**{**shape, "models": tuple(row["models"]), "budget": json.loads(row["budget"])})

    def _remember(self, key: str, at: float, found: Key | None) -> None:
        self._known[key] = (at, found)
        self._known.move_to_end(key)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)

    async def listing(self, after: str, limit: int) -> tuple[list[Key], str | None]:
        """Give up to `limit` keys in the order of their ids, and the cursor behind them."""
        try:
            rows = await self._state.list(PARTITION, "k_", after, limit)
        except Unavailable as error:
            raise unavailable(error) from error
        found = [key for name, item in rows if (key := self._read_item(name, item)) is not None]
        return found, rows[-1][0] if len(rows) == limit else None

    # ── change ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def add(self, key: Key) -> None:
        """Put a new key. Raises Problem state_unavailable: it may then stand, but nobody was shown its secret."""
        await self._write(Put(key.id, self._item(key)), key)

    async def change(self, key: str, how: Callable[[Key], Key]) -> Key:
        """Change a key; give it as it is. Raises Problem not_found, conflict, and what `how` raises."""
        for _ in range(TRIES):
            found = await self.look(key)
            if found is None:
                raise Problem("not_found", "there is no such key; `buspass key list` shows them")
            if (wanted := how(found)) == found:
                return found
            new = replace(wanted, version=found.version + 1)
            if await self._write(Put(key, self._item(new), (Equals(("version",), found.version),)), new):
                return new
        raise Problem("conflict", "the key changes too fast right now; retry", retry_after=0.5)

    async def _write(self, put: Put, new: Key) -> bool:
        before = self._clock.monotonic()
        result = await self._apply(PARTITION, [put])
        mine = isinstance(result, Applied) or (result.item or {}).get("mac") == put.value["mac"]
        self._known.pop(new.id, None)
        if mine:
            self._remember(new.id, before, new)
        return mine

    def _item(self, key: Key) -> Item:
        fields = {**asdict(key), "models": list(key.models), "budget": json.dumps(dict(key.budget), sort_keys=True)}
        return self._stamp(PARTITION, key.id, fields)

    # ── sessions ────────────────────────────────────────────────────────────────────────────────────────────────

    def alone(self, name: str) -> asyncio.Lock:
        """Give the lock of this name: of a session's first calls at this host one starts the task."""
        return self._locks.setdefault(name, asyncio.Lock())

    def standing(self, key: str, session: str) -> Standing | None:
        """Give the session's standing task as this host last knew it."""
        return self._standing.get((key, session))

    def stands(self, key: str, session: str, standing: Standing) -> None:
        """Keep what the session's standing task is."""
        self._standing[(key, session)] = standing
        self._standing.move_to_end((key, session))
        if len(self._standing) > KEPT:
            self._standing.popitem(last=False)

    async def generation(self, key: str, session: str) -> int:
        """Read which generation of standing task the session is in."""
        item = await self._read(_sessions(key), _session(session))
        return int(str(item["generation"])) if item else 0

    async def advance(self, key: str, session: str, generation: int) -> None:
        """Let the session's next generation follow this one, unless somebody did so already."""
        put = Put(_session(session), {"generation": generation + 1})
        move = Update(_session(session), (Equals(("generation",), generation),), {("generation",): 1})
        await self._apply(_sessions(key), [move if generation else put])

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, partition: str, key: str) -> Item | None:
        try:
            return await self._state.read(partition, key)
        except Unavailable as error:
            raise unavailable(error) from error

    async def _apply(self, partition: str, operations: list[Operation]) -> Applied | Refused:
        """Apply; after a lost answer again, which is harmless: the caller knows its own item when it meets it."""
        try:
            return (await answered(self._state, partition, operations))[0]
        except (Unavailable, OutcomeUnknown) as error:
            raise unavailable(error) from error


def _sessions(key: str) -> str:
    return f"key:{key}"


def _session(session: str) -> str:
    return "session:" + hashlib.sha256(session.encode()).hexdigest()[:32]
