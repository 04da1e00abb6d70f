"""The breakers of one host: what it knows of each, who may go, and the store that they share.

Owns the partitions `breaker:…` and the local view, at most a second old. While calls succeed nothing is written and a
breaker is read once a second at most; a task's own breakers are not even read before they saw a failure. Refuses to
know what a failure is, and what the caller is told. Fails open: without the store the local view goes on alone, for
nothing is sent without a hold, which needs the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Literal

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from buspass.breakers import states
from buspass.breakers.states import CLOSED, RULES, Breaker, Fault, Rule
from buspass.ports.clock import Clock
from buspass.ports.state import Delete, Equals, Item, OutcomeUnknown, Put, Refused, State, Unavailable

KEY: Final = "state"
INDEX: Final = "due"
SHARD: Final = "breakers"
VIEW: Final = 1.0
"""Seconds that what was read of a breaker counts."""
FRESH: Final = 10.0
"""Seconds that a success proves a service well."""
LEASE: Final = 5_000
"""Milliseconds that a probe's lease outlasts its call."""
TRIES: Final = 20
KEPT: Final = 4_096
"""Breakers of tasks that a host remembers."""

COLD: Final = 0.5
"""Seconds of silence, after the first call to a service of which nothing is known lately, that the others wait for it:
parallel tool calls are an agent's daily bread, and a slow service is not a dead one."""

log = logging.getLogger("buspass")


class Key(Struct, frozen=True):
    """Which breaker: of a model's target, of a tool's host, or of such a host for one task.

    `address`: where a target's provider is, for its name says who it is and not where: what one address came to is no
    sign of another, which a new configuration or another host may have for it.
    """

    kind: Literal["model", "tool", "task"]
    name: str
    task: str = ""
    address: str = ""

    def __str__(self) -> str:
        """Say it in a line of the log."""
        name = self.name if self.name.isprintable() else repr(self.name)
        return f"tool {name} of task {self.task}" if self.task else f"{self.kind} {name}"

    @property
    def partition(self) -> str:
        """Give its partition in the store."""
        name = f"{self.name}@{self.address}" if self.address else self.name
        if not (name.isascii() and name.isprintable() and len(name) < 128):
            name = hashlib.sha256(name.encode()).hexdigest()
        return f"breaker:{self.kind}:{self.task}:{name}" if self.task else f"breaker:{self.kind}:{name}"


class Refusal(Exception):  # noqa: N818 - a breaker's word for it
    """Nobody goes now. `until`: when to come back (ms); `breaker`: what is known of it."""

    def __init__(self, key: Key, breaker: Breaker, until: int) -> None:
        super().__init__(f"{key.name}: {breaker.state}")
        self.key, self.breaker, self.until = key, breaker, until


class _Local(Struct, eq=False):
    """What this host knows of one breaker. `read` and `proven` are monotonic seconds; `flying`: its calls under way.

    `asked`: the loop's seconds when the one call was sent that finds out for all; inf before that, and once it failed.
    """

    breaker: Breaker = CLOSED
    read: float = -math.inf
    proven: float = -math.inf
    asked: float = -math.inf
    flying: int = 0
    run: int = 0
    forgiven: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def tell(self) -> None:
        """Wake who waits for a change."""
        self.news.set()
        self.news = asyncio.Event()


class Pass(Struct, eq=False):
    """One call's leave to go. Say once how it went: `succeeded`, `failed`, or `void` where nothing was found out."""

    owner: Breakers
    key: Key
    local: _Local | None
    before: states.State
    """The breaker's state when it was given."""
    probe: str = ""
    over: bool = False
    first: bool = False
    """Whether it finds out for all: then say when it is `sent`, and at once that it `broke`, before it has `failed`."""

    def _leave(self) -> None:
        if not self.over:
            self.over = True
            if self.local is not None:
                self.local.flying -= 1
                if self.first:
                    self.local.asked = -math.inf

    def sent(self) -> None:
        """It is on its way, the first one: from now on it is the service that lets the others wait."""
        if self.local is not None:
            self.local.asked = asyncio.get_running_loop().time()
            self.local.tell()

    def broke(self) -> None:
        """It came to nothing, and soon all will know: the service is not silent any more."""
        if self.local is not None:
            self.local.asked = math.inf

    def well(self) -> bool:
        """Take note of a success where that changes nothing for anybody, as nearly always; else say False."""
        local = self.local
        if local is None:
            return not self.owner.knows(self.key)
        if self.before != "closed" or local.breaker.state != "closed":
            return False
        self.owner.proven(local)
        if not self.over:
            self.over = True
            local.flying -= 1
        return True

    async def succeeded(self, *, proof: bool = True) -> Breaker:
        """It answered. `proof`: well enough that others need not be careful."""
        try:
            return await self.owner.succeeded(self.key, self.local, self.probe, proof=proof)
        finally:
            self._leave()

    async def failed(self, fault: Fault) -> Breaker:
        """It failed. Gives the breaker as it stands now."""
        try:
            return await self.owner.failed(self.key, fault, self.probe)
        finally:  # only now: until it is known that it failed, its place is not free
            self._leave()

    async def void(self) -> None:
        """Nothing was found out: it was never sent, or what went wrong was the caller's. Harmless after the others."""
        over = self.over
        self._leave()
        if not over and self.local is not None:
            if self.probe:
                await self.owner.returned(self.key, self.probe)
            self.local.tell()


class Breakers:
    """All breakers, as one host sees them. Safe for any number of concurrent callers."""

    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock
        self._locals: dict[Key, _Local] = {}

    # ── who may go ──────────────────────────────────────────────────────────────────────────────────────────────

    def at_once(self, key: Key) -> Pass | None:
        """Give a call its leave where nothing speaks against that, nor has to be looked up; None: `enter` it."""
        rule, local = RULES[key.kind], self._locals.get(key)
        if local is None:
            return None if rule.read else Pass(self, key, None, "closed")
        now = self._clock.monotonic()
        if local.breaker.state != "closed" or now - local.read >= VIEW:
            return None
        if rule.unproven != math.inf and now - local.proven >= FRESH:
            return None if local.flying >= rule.unproven else self._first(key, local)
        local.flying += 1
        return Pass(self, key, local, "closed")

    def _first(self, key: Key, local: _Local) -> Pass:
        """Give the one call its leave that finds out whether a service is there."""
        local.flying, local.asked = local.flying + 1, math.inf
        return Pass(self, key, local, "closed", first=True)

    async def enter(self, key: Key, *, wait: float, lasts: float) -> Pass:
        """Give a call of at most `lasts` seconds its leave to go, waiting up to `wait` seconds. Raises Refusal."""
        if (passed := self.at_once(key)) is not None:
            return passed
        rule, local = RULES[key.kind], self._local(key)
        clock = asyncio.get_running_loop().time
        until = (began := clock()) + wait
        while True:
            breaker = await self._look(key, local)
            now = self._clock.now()
            verdict = states.ask(breaker, now)
            if verdict == "refused":
                raise Refusal(key, breaker, states.comeback(breaker, now))
            if verdict == "probe":
                if (passed := await self._probe(key, local, round(lasts * 1000) + LEASE)) is not None:
                    return passed
                continue
            room, free = self._room(rule, local, verdict), verdict == "free"
            patient = min(until, max(began, local.asked) + COLD) if free else math.inf
            if local.flying < room or clock() >= patient:
                if free and local.flying < room < math.inf:
                    return self._first(key, local)
                local.flying += 1  # who waited long enough goes: it is only slow, for all that is known
                return Pass(self, key, local, breaker.state)
            if clock() >= until:
                raise Refusal(key, breaker, now + 1_000)
            await self._news(local, min(patient, until))

    def well(self, keys: Iterable[Key]) -> bool:
        """Whether all of these are known to be closed, as of a second ago at most: then none is `unavailable`."""
        since = self._clock.monotonic() - VIEW
        for key in keys:
            local = self._locals.get(key)
            if local is None or local.read <= since or local.breaker.state != "closed":
                return False
        return True

    async def unavailable(self, keys: Iterable[Key]) -> dict[Key, int]:
        """Give those of these that nobody may go to now, with the time to come back (ms)."""
        found = {}
        for key in keys:
            local = self._local(key)
            if self._goes_well(local):
                continue
            breaker = await self._look(key, local)
            now = self._clock.now()
            if states.ask(breaker, now) == "refused":
                found[key] = states.comeback(breaker, now)
        return found

    def _goes_well(self, local: _Local) -> bool:
        """Whether it is known to be closed, as of a second ago at most."""
        return local.breaker.state == "closed" and self._clock.monotonic() - local.read < VIEW

    def _room(self, rule: Rule, local: _Local, verdict: states.Verdict) -> float:
        if verdict == "careful":
            return rule.careful
        if rule.unproven == math.inf:
            return math.inf
        return math.inf if self._clock.monotonic() - local.proven < FRESH else rule.unproven

    async def _news(self, local: _Local, until: float) -> None:
        """Wait for something to change; look again after a second in any case, for other hosts change it too."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + VIEW)):
                await local.news.wait()

    # ── how it went ─────────────────────────────────────────────────────────────────────────────────────────────

    async def succeeded(self, key: Key, local: _Local | None, probe: str = "", *, proof: bool = True) -> Breaker:
        """Take note of a success."""
        local = local or self._locals.get(key)
        if local is None:
            return CLOSED
        if proof:
            self.proven(local)
            if local.breaker.state == "closed":
                return local.breaker
        breaker = await self._change(key, local, lambda breaker, now: states.succeeded(breaker, now, probe))
        local.tell()
        return breaker

    def knows(self, key: Key) -> bool:
        """Whether anything is known of a breaker here: of a task's, only once it saw a failure."""
        return key in self._locals

    def proven(self, local: _Local) -> None:
        """Know a service well, as of now."""
        before, local.proven = local.proven, self._clock.monotonic()
        local.run += 1
        if local.forgiven:
            local.forgiven = 0
        if local.proven - before >= FRESH and local.breaker.state == "closed":
            local.tell()

    async def failed(self, key: Key, fault: Fault, probe: str = "") -> Breaker:
        """Take note of a failure; of a call without a pass, too, which broke later."""
        local, rule = self._local(key), RULES[key.kind]
        run, local.run = local.run, 0
        if rule.forgiving and local.breaker.state == "closed" and not fault.retry_after:
            if run >= rule.forgiving:
                local.forgiven = 2
            if local.forgiven:
                local.forgiven -= 1
                return local.breaker
        breaker = await self._change(key, local, lambda breaker, now: states.failed(breaker, now, fault, probe))
        local.proven = -math.inf
        local.tell()
        return breaker

    async def returned(self, key: Key, probe: str) -> None:
        """Give a probe's lease back."""
        await self._change(key, self._local(key), lambda breaker, now: states.returned(breaker, now, probe))

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────────────

    def _local(self, key: Key) -> _Local:
        if (local := self._locals.get(key)) is None:
            if key.task and len(self._locals) >= KEPT:
                idle = (old for old, known in self._locals.items() if old.task and not known.flying)
                with suppress(StopIteration):
                    del self._locals[next(idle)]
            local = self._locals[key] = _Local()
        return local

    async def _look(self, key: Key, local: _Local) -> Breaker:
        if self._clock.monotonic() - local.read < VIEW:
            return local.breaker
        async with local.turn:
            if self._clock.monotonic() - local.read >= VIEW:
                await self._read(key, local)
        return local.breaker

    async def _read(self, key: Key, local: _Local) -> None:
        try:
            item = await self._state.read(key.partition, KEY)
        except Unavailable as error:
            log.warning("breaker %s can't be read: %s", key, error)
        else:
            local.breaker = CLOSED if item is None else breaker_in(item)
        local.read = self._clock.monotonic()

    async def _probe(self, key: Key, local: _Local, lasts: int) -> Pass | None:
        """Try to become the one prober, for `lasts` ms. Raises Refusal where the store is away."""
        probe = self._clock.random(8).hex()
        breaker = await self._change(
            key, local, lambda breaker, now: states.taken(breaker, now, probe, lasts), alone=False
        )
        if breaker.probe == probe:
            local.flying += 1
            return Pass(self, key, local, breaker.state, probe)
        now = self._clock.now()
        if states.ask(breaker, now) == "probe":
            raise Refusal(key, breaker, now + 1_000)
        return None

    async def _change(
        self, key: Key, local: _Local, step: Callable[[Breaker, int], Breaker | None], *, alone: bool = True
    ) -> Breaker:
        """Change the shared breaker by a step of the table. `alone`: here at least, if the store is away."""
        async with local.turn:
            for _ in range(TRIES):
                if (new := step(local.breaker, self._clock.now())) is None:
                    return local.breaker
                try:
                    answer = await self._state.apply(key.partition, [_operation(key, local.breaker.version, new)])
                except OutcomeUnknown:
                    await self._read(key, local)
                    if local.breaker == new:
                        break
                    continue
                except Unavailable as error:
                    log.warning("breaker %s can't be written: %s", key, error)
                    if alone:
                        local.breaker = replace(new, version=local.breaker.version)
                    break
                local.read = self._clock.monotonic()
                if isinstance(answer, Refused):
                    local.breaker = CLOSED if answer.item is None else breaker_in(answer.item)
                    continue
                if new.state != local.breaker.state:
                    level = logging.WARNING if new.state == "open" else logging.INFO
                    log.log(level, "breaker %s: %s, then %s", key, local.breaker.state, new.state)
                local.breaker = CLOSED if answer.item is None else new
                break
            return local.breaker


def _operation(key: Key, version: int, new: Breaker) -> Put | Delete:
    require = (Equals(("version",), version),) if version else ()
    if key.task and require and new.state == "closed":
        return Delete(KEY, require)  # a task ends, and nobody would
    value: Item = {**asdict(new), "breaker": key.kind, "name": key.name, "task": key.task}
    place = None if new.state == "closed" else (SHARD, f"{new.since:016d}")
    return Put(KEY, value, require, index={INDEX: place})


def breaker_in(item: Item) -> Breaker:
    """Read an item."""
    return Breaker(**{part: item[part] for part in Breaker.__struct_fields__})  # type: ignore[arg-type]  # as it was put
