"""The stops in one store, and what a host knows of them: a view that is at most a second old.

Owns the partition `stops`: an item for each stop that stands (`s_…`, its id follows from what it stops) and one for
each that was lifted (`l_…`), with a MAC. Who can write to the database weakens none: an item that is not genuine stops
everything, until an operator lifts it. Fails closed: what can't be read is taken for no leave to go.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Literal, cast, get_args

from msgspec import Struct
from msgspec.structs import asdict, replace

from buspass.errors import Problem
from buspass.ports.clock import Clock
from buspass.ports.state import (
    Applied,
    Delete,
    Equals,
    Item,
    Operation,
    OutcomeUnknown,
    Put,
    Refused,
    State,
    Unavailable,
    Value,
    answered,
)

PARTITION: Final = "stops"
STANDING: Final = "s_"
LIFTED: Final = "l_"
VIEW: Final = 1.0
"""Seconds that a host goes by what it read."""
MOST: Final = 200
"""Stops that are read: those that stand, and the newest that were lifted."""
TRIES: Final = 8
LATEST: Final = 2**48 - 1
ALTERED: Final = "this stop was altered in the store: an operator must look, and lift it"

type Kind = Literal["workflow", "agent", "tool", "model", "all"]
type Stamp = Callable[[str, str, Mapping[str, Value]], Item]
type Genuine = Callable[[str, str, Item], bool]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind.__value__)
log = logging.getLogger("buspass")


class Stop(Struct, frozen=True, kw_only=True):
    """One order. `name`: of what (`kind`) is stopped, "" for `all`. Times in ms, 0 for never.

    `tasks`: how many it ended; `done`: when the last of them, and every store of the domain knew of it. `host`: where
    it was ordered. An agent is named `IDENTITY:AGENT` or `AGENT`, a model by its alias or as a target, PROVIDER/MODEL.
    """

    id: str
    kind: Kind
    name: str
    reason: str
    by: str
    at: int
    host: str
    tasks: int = 0
    done: int = 0
    lifted: int = 0
    lifted_by: str = ""
    lifted_reason: str = ""
    version: int = 1

    @property
    def what(self) -> str:
        """Say what is stopped."""
        return "everything" if self.kind == "all" else f"{self.kind} {self.name!r}"

    def meets(self, workflow: str, agents: Collection[str], tool: str = "", models: Collection[str] = ()) -> bool:
        """Say whether it stops a task or a call of these; `agents` as IDENTITY:AGENT, `models`: alias and target."""
        match self.kind:
            case "all":
                return True
            case "workflow":
                return self.name == workflow
            case "agent":
                return any(self.name in (agent, agent.partition(":")[2]) for agent in agents)
            case "tool":
                return bool(tool) and self.name == tool
            case "model":
                return self.name in models


def stop_id(kind: Kind, name: str) -> str:
    """Give what a stop is called: it follows from what it stops, so that the same is stopped once in every store."""
    return STANDING + hashlib.sha256(f"{kind} {name}".encode()).hexdigest()[:16]


def refusal(stop: Stop) -> Problem:
    """Give what a call or a start that it stops is told."""
    detail = f"an operator has stopped {stop.what}: {stop.reason}. Do not retry; tell the user"
    return Problem("stopped", detail, stop=stop.id)


class Stops:
    """The stops as one host sees them. Safe for any number of concurrent callers. `stamp`, `genuine`: the journal's."""

    def __init__(self, state: State, clock: Clock, stamp: Stamp, genuine: Genuine) -> None:
        self._state = state
        self._clock = clock
        self._stamp, self._genuine = stamp, genuine
        self._seen: tuple[Stop, ...] = ()
        self._read_at = -math.inf
        self._turn = asyncio.Lock()
        self.standing = False
        """Whether any stood when last seen."""

    # ── what stands ─────────────────────────────────────────────────────────────────────────────────────────────

    async def look(self) -> tuple[Stop, ...]:
        """Give those that stand, as of a second ago at most. Raises Problem state_unavailable."""
        asked = self._clock.monotonic()
        if asked - self._read_at >= VIEW:
            async with self._turn:  # of many calls at once one reads, and what began after one asked will do for it
                if self._read_at < asked and self._clock.monotonic() - self._read_at >= VIEW:
                    await self.now()
        return self._seen

    async def now(self) -> tuple[Stop, ...]:
        """Give those that stand now. Raises Problem state_unavailable."""
        at = self._clock.monotonic()
        found = await self._list(STANDING)
        stops = tuple(self._stop(key, item) for key, item in found)
        if at >= self._read_at:
            self._seen, self._read_at = stops, at
            self.standing = bool(stops)
        return stops

    async def lifted(self) -> list[Stop]:
        """Give the newest of those that were lifted. Raises Problem state_unavailable."""
        return [self._stop(key, item) for key, item in await self._list(LIFTED)]

    def clear(self) -> bool:
        """Whether nothing is stopped, as of a second ago at most: then there is nothing to `ask`, nearly always."""
        return not self.standing and self._clock.monotonic() - self._read_at < VIEW

    def against(
        self, workflow: str, agents: Collection[str], tool: str = "", models: Collection[str] = ()
    ) -> Stop | None:
        """Give a stop, of those last seen, that meets such a task or call."""
        if not self._seen:  # nearly always
            return None
        return next((stop for stop in self._seen if stop.meets(workflow, agents, tool, models)), None)

    async def ask(self, workflow: str, agents: Collection[str], tool: str = "", models: Collection[str] = ()) -> None:
        """Refuse what is stopped. Raises Problem stopped, state_unavailable."""
        await self.look()
        self.check(workflow, agents, tool, models)

    def check(self, workflow: str, agents: Collection[str], tool: str = "", models: Collection[str] = ()) -> None:
        """Do that on what was last seen. Raises Problem stopped."""
        if (stop := self.against(workflow, agents, tool, models)) is not None:
            raise refusal(stop)

    # ── change ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, stop: Stop) -> Stop:
        """Let it stand, and give the one that does: an older one of the same is left as it is.

        Raises Problem conflict where too many do, state_unavailable.
        """
        standing = {each.id for each in await self.now()}
        if stop.id not in standing and len(standing) >= MOST // 2:
            raise Problem("conflict", "there are too many stops; lift some, or stop everything: --all")
        answer = await self._apply([Put(stop.id, self._item(stop.id, stop))])
        await self.now()
        if isinstance(answer, Refused) and answer.item is not None:
            return self._stop(stop.id, answer.item)
        return stop

    async def progress(self, key: str, *, tasks: int, done: int) -> Stop | None:
        """Count what it ended; `done` (ms) where nothing is left. None where it was lifted meanwhile."""
        for _ in range(TRIES):
            item = await self._read(key)
            if item is None or not self._genuine(PARTITION, key, item):
                return None
            old = self._stop(key, item)
            new = replace(old, tasks=old.tasks + tasks, done=old.done or done)
            if new == old:
                return old
            new = replace(new, version=old.version + 1)
            put = Put(key, self._item(key, new), (Equals(("version",), old.version),))
            answer = await self._apply([put])
            if isinstance(answer, Applied) or (answer.item or {}).get("mac") == put.value["mac"]:
                return new
        raise Problem("conflict", "the stop changes too fast right now; retry", retry_after=0.5)

    async def lift(self, key: str, *, by: str, reason: str, host: str) -> Stop | None:
        """End a stop, and keep who did it and why. None where none stands. Raises Problem conflict, state_unavailable.

        Its record is put first: where an answer is lost, the repetition finds the stop, or that it is gone.
        """
        for _ in range(TRIES):
            item = await self._read(key)
            if item is None:
                await self.now()
                return None
            stop = self._stop(key, item, host)
            stop = replace(stop, lifted=self._clock.now(), lifted_by=by, lifted_reason=reason)
            name = f"{LIFTED}{LATEST - stop.at:012x}.{key[:64]}"
            version = item.get("version")
            gone = Delete(key, (Equals(("version",), version),) if isinstance(version, int) else ())
            answer = await self._apply([Put(name, self._item(name, stop)), gone])
            if isinstance(answer, Refused) and answer.index == 0:  # from a lift that broke off in between
                answer = await self._apply([gone])
            if isinstance(answer, Applied) or answer.item is None:
                await self.now()
                return stop
        raise Problem("conflict", "the stop changes too fast right now; retry", retry_after=0.5)

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────────────

    def _item(self, key: str, stop: Stop) -> Item:
        return self._stamp(PARTITION, key, cast("Mapping[str, Value]", asdict(stop)))

    def _stop(self, key: str, item: Item, host: str = "") -> Stop:
        if not self._genuine(PARTITION, key, item):
            log.error("the item of stop %s was not written by a host of this domain: everything is stopped", key)
            return Stop(id=key, kind="all", name="", reason=ALTERED, by="", at=0, host=host)
        row = cast("Mapping[str, Any]", item)
        return Stop(**{name: row[name] for name in Stop.__struct_fields__})

    async def _read(self, key: str) -> Item | None:
        try:
            return await self._state.read(PARTITION, key)
        except Unavailable as error:
            raise _unavailable(error) from error

    async def _list(self, prefix: str) -> Sequence[tuple[str, Item]]:
        try:
            return await self._state.list(PARTITION, prefix, "", MOST)
        except Unavailable as error:
            raise _unavailable(error) from error

    async def _apply(self, operations: list[Operation]) -> Applied | Refused:
        """Apply; after a lost answer again, which is harmless: every one falsifies its own condition."""
        try:
            return (await answered(self._state, PARTITION, operations))[0]
        except (Unavailable, OutcomeUnknown) as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> Problem:
    return Problem("state_unavailable", f"the stops could not be read or written ({error}); retry", retry_after=1)
