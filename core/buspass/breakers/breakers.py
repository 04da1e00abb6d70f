"""The breakers of one host: what it knows of each, who may go, and the store that they share.

Owns the local view, at most a second old. While calls succeed nothing is written and a
breaker is read once a second at most; a task's own breakers are not even read before they saw a failure, unless this
host has forgotten one. Refuses to know what a failure is, and what the caller is told. Fails open: without the store
the local view goes on alone, for nothing is sent without a hold, which needs the store.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from msgspec import Struct

from buspass.breakers import states
from buspass.breakers.known import Key, Known, Memory
from buspass.breakers.states import CLOSED, RULES, Breaker, Fault, Rule
from buspass.breakers.stored import Stored
from buspass.ports.clock import Clock
from buspass.ports.state import State

VIEW: Final = 1.0
"""Seconds that what was read of a breaker counts."""
FRESH: Final = 10.0
"""Seconds that a success proves a service well."""
LEASE: Final = 5_000
"""Milliseconds that a probe's lease outlasts its call."""

COLD: Final = 0.5
"""Seconds of silence, after the first call to a service of which nothing is known lately, that the others wait for it:
parallel tool calls are an agent's daily bread, and a slow service is not a dead one."""


class Refusal(Exception):  # noqa: N818 - a breaker's word for it
    """Nobody goes now. `until`: when to come back (ms); `breaker`: what is known of it."""

    def __init__(self, key: Key, breaker: Breaker, until: int) -> None:
        super().__init__(f"{key.name}: {breaker.state}")
        self.key, self.breaker, self.until = key, breaker, until


class Pass(Struct, eq=False):
    """One call's leave to go. Say once how it went: `succeeded`, `failed`, or `void` where nothing was found out."""

    owner: Breakers
    key: Key
    local: Known | None
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
        """It answered. `proof`: well enough that others need not be careful. Cut short, it is still to be `void`."""
        breaker = await self.owner.succeeded(self.key, self.local, self.probe, proof=proof)
        self._leave()
        return breaker

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
        self._stored = Stored(state, clock)
        self._clock = clock
        self.memory = Memory(clock)

    # ── who may go ──────────────────────────────────────────────────────────────────────────────────────────────

    def at_once(self, key: Key) -> Pass | None:
        """Give a call its leave where nothing speaks against that, nor has to be looked up; None: `enter` it."""
        rule, local = RULES[key.kind], self.memory.get(key)
        if local is None:
            return None if rule.read or self.memory.doubtful() else Pass(self, key, None, "closed")
        now = self._clock.monotonic()
        if local.breaker.state != "closed" or now - local.read >= VIEW:
            return None
        if rule.unproven != math.inf and now - local.proven >= FRESH:
            return None if local.flying >= rule.unproven else self._first(key, local)
        local.flying += 1
        return Pass(self, key, local, "closed")

    def _first(self, key: Key, local: Known) -> Pass:
        """Give the one call its leave that finds out whether a service is there."""
        local.flying, local.asked = local.flying + 1, math.inf
        return Pass(self, key, local, "closed", first=True)

    async def enter(self, key: Key, *, wait: float, lasts: float) -> Pass:
        """Give a call of at most `lasts` seconds its leave to go, waiting up to `wait` seconds. Raises Refusal."""
        if (passed := self.at_once(key)) is not None:
            return passed
        with (local := self.memory.of(key)):
            return await self._entered(key, local, wait, lasts)

    async def _entered(self, key: Key, local: Known, wait: float, lasts: float) -> Pass:
        rule = RULES[key.kind]
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
            local = self.memory.get(key)
            if local is None or local.read <= since or local.breaker.state != "closed":
                return False
        return True

    async def unavailable(self, keys: Iterable[Key]) -> dict[Key, int]:
        """Give those of these that nobody may go to now, with the time to come back (ms)."""
        found = {}
        for key in keys:
            local = self.memory.of(key)
            if self._goes_well(local):
                continue
            breaker = await self._look(key, local)
            now = self._clock.now()
            if states.ask(breaker, now) == "refused":
                found[key] = states.comeback(breaker, now)
        return found

    def _goes_well(self, local: Known) -> bool:
        """Whether it is known to be closed, as of a second ago at most."""
        return local.breaker.state == "closed" and self._clock.monotonic() - local.read < VIEW

    def _room(self, rule: Rule, local: Known, verdict: states.Verdict) -> float:
        if verdict == "careful":
            return rule.careful
        if rule.unproven == math.inf:
            return math.inf
        return math.inf if self._clock.monotonic() - local.proven < FRESH else rule.unproven

    async def _news(self, local: Known, until: float) -> None:
        """Wait for something to change; look again after a second in any case, for other hosts change it too."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(until, asyncio.get_running_loop().time() + VIEW)):
                await local.news.wait()

    # ── how it went ─────────────────────────────────────────────────────────────────────────────────────────────

    async def succeeded(self, key: Key, local: Known | None, probe: str = "", *, proof: bool = True) -> Breaker:
        """Take note of a success."""
        local = local or self.memory.get(key)
        if local is None:
            return CLOSED
        if proof:
            self.proven(local)
            if local.breaker.state == "closed":
                return local.breaker
        breaker = await self._stored.change(key, local, lambda breaker, now: states.succeeded(breaker, now, probe))
        local.tell()
        return breaker

    def knows(self, key: Key) -> bool:
        """Whether anything is known of a breaker here: of a task's, only once it saw a failure."""
        return key in self.memory

    def proven(self, local: Known) -> None:
        """Know a service well, as of now."""
        before, local.proven = local.proven, self._clock.monotonic()
        local.run += 1
        if local.forgiven:
            local.forgiven = 0
        if local.proven - before >= FRESH and local.breaker.state == "closed":
            local.tell()

    async def failed(self, key: Key, fault: Fault, probe: str = "") -> Breaker:
        """Take note of a failure; of a call without a pass, too, which broke later."""
        local, rule = self.memory.of(key), RULES[key.kind]
        run, local.run = local.run, 0
        if rule.forgiving and local.breaker.state == "closed" and not fault.retry_after:
            if run >= rule.forgiving:
                local.forgiven = 2
            if local.forgiven:
                local.forgiven -= 1
                return local.breaker
        breaker = await self._stored.change(key, local, lambda breaker, now: states.failed(breaker, now, fault, probe))
        local.proven = -math.inf
        local.tell()
        return breaker

    async def returned(self, key: Key, probe: str) -> None:
        """Give a probe's lease back."""
        await self._stored.change(key, self.memory.of(key), lambda breaker, now: states.returned(breaker, now, probe))

    # ── the store ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self, key: Key, local: Known) -> Breaker:
        if self._clock.monotonic() - local.read < VIEW:
            return local.breaker
        async with local.turn:
            if self._clock.monotonic() - local.read >= VIEW:
                await self._stored.read(key, local)
        return local.breaker

    async def _probe(self, key: Key, local: Known, lasts: int) -> Pass | None:
        """Try to become the one prober, for `lasts` ms. Raises Refusal where the store is away."""
        probe = self._clock.random(8).hex()
        breaker = await self._stored.change(
            key, local, lambda breaker, now: states.taken(breaker, now, probe, lasts), alone=False
        )
        if breaker.probe == probe:
            local.flying += 1
            return Pass(self, key, local, breaker.state, probe)
        now = self._clock.now()
        if states.ask(breaker, now) == "probe":
            raise Refusal(key, breaker, now + 1_000)
        return None
