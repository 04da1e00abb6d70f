"""What is common to the simulated worlds: their faults, the laws that were broken, and how a failure shortens itself.

Owns the count of faults and which of them happen. Refuses to know what a world is made of.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from random import Random
from typing import ClassVar

import pytest

from buspass.errors import Problem

SHORTEST = 400
"""Worlds that shortening a failure may try."""


class World:
    """Seeded chance, faults and laws. A fault is one that took effect; `upto` and `without` let some not happen."""

    RATES: ClassVar = {
        "trouble": (0.0, 0.15, 0.3, 0.45),
        "throttle": (0.0, 0.05, 0.15),
        "mortality": (0.0, 0.005, 0.015, 0.03),
        "slow": (0.0, 0.02, 0.05),
        "arrival": (0.3, 0.3, 0.03),
    }
    """Of which each world draws its own: writes that fail, requests refused for now, processes that die, delays, and
    how soon late writes arrive.
    """

    def __init__(self, seed, size, *, upto=10**9, without=frozenset()):
        self.seed, self.size, self.random = seed, size, Random(seed)
        self.transactional = seed % 2 == 0
        self.calm, self.cuts, self.driver_retries = False, frozenset(), False
        self.faults, self.met, self.met_as = Counter(), 0, {}
        self.seen, self.broken, self.errors = Counter(), [], []
        self._upto, self._without = upto, without
        rates = {name: self.random.choice(among) for name, among in self.RATES.items()}
        self.trouble, self.throttle = rates["trouble"], rates["throttle"]
        self.mortality, self.slow = rates["mortality"], rates["slow"]
        self.arrival = rates["arrival"]
        self.hazard = self.mortality + self.throttle + self.slow

    def meets(self, kind):
        """Say whether the next fault happens, and count it."""
        number = self.met
        self.met += 1
        if number >= self._upto or number in self._without:
            return False
        self.faults[kind] += 1
        self.met_as[number] = kind
        return True

    def law(self, kept, what):
        if not kept:
            self.broken.append(what)

    def met_with(self, error):
        """Note what a caller met that is no answer: nothing may end so."""
        self.broken.append(f"a caller met {error!r}")
        self.errors.append(error)


def proven(run, seeds, sizes):
    """Live every seed's world of the greatest size: what was seen, and the faults. A broken law is shown at its shortest.

    `run`: seed, size and what `World` takes beside → the world after its end.
    """
    seen, faults = Counter(), Counter()
    for seed in seeds:
        world = run(seed, sizes[-1])
        if world.broken:
            pytest.fail(shortened(run, world, sizes))
        seen += world.seen
        faults += world.faults
    return seen, faults


def caught(run, size, bug, *, most=1_000_000):
    """Live world after world until one breaks a law; print which, after how many faults (`pytest -rP` shows it).

    Fails where `most` faults don't show the bug, and where it is code that doesn't run: nobody had to look at the books.
    """
    faults = 0
    for seed in itertools.count():
        try:
            world = run(seed, size)
        except Problem as problem:  # the books were so wrong that the world could not go on
            broken = [f"{problem.code}: {problem}"]
        else:
            faults += world.faults.total()
            broken = world.broken
            for error in world.errors:
                if not isinstance(error, Problem):
                    raise error
        if broken:
            sys.stdout.write(f"{bug}: seed {seed}, {faults} faults: {broken[0]}\n")
            return
        if faults > most:
            pytest.fail(f"{faults} faults, and nobody noticed")


def shortened(run, world, sizes):
    """Tell the seed and the laws it broke, in the smallest world and with the fewest faults that still break one."""
    tries = [SHORTEST]

    def breaks(size, upto, without=frozenset()):
        tries[0] -= 1
        if tries[0] < 0:
            return None
        found = run(world.seed, size, upto=upto, without=without)
        return found if found.broken else None

    best = next((found for size in sizes if (found := breaks(size, 10**9))), world)
    low, high = 0, best.met
    while low < high:  # the last fault that matters
        middle = (low + high) // 2
        if found := breaks(best.size, middle):
            best, high = found, middle
        else:
            low = middle + 1
    upto, without = high, frozenset()
    for number in sorted(best.met_as, reverse=True):
        if found := breaks(best.size, upto, without | {number}):
            best, without = found, without | {number}
    needed = ", ".join(f"{kind} (the {number + 1}th)" for number, kind in sorted(best.met_as.items()))
    return (
        f"seed {world.seed}: {world.broken[:3]}\n"
        f"shortest: size {best.size}, {needed or 'no fault at all'}: {best.broken[:3]}\n"
        f"again: run({world.seed}, {best.size}, upto={upto}, without={set(without) or 'frozenset()'})"
    )
