"""The ledger's books are right whatever fails, and a simulation that could not fail would prove nothing."""

import functools
import random
import re

import laws
import ledger_world
import planted
import pytest

WORLDS, MORE = 310, 320
"""Worlds in the quick suite, and in each of the ten blocks of the slow one; a world meets sixty faults and more."""
EVENTS = (
    "executed",
    "replayed",
    "stale",
    "budget_exhausted",
    "budget_held",
    "state_unavailable",
    "credit",
    "sweep",
    "seal",
)
FAULTS = ("unknown", "down", "throttled", "delayed", "crash", "crash between two writes")


def test_every_law_holds_at_every_step():
    seen, faults = laws.proven(ledger_world.run, range(WORLDS), ledger_world.CALLS)
    # what never happened was not proven
    assert all(seen[event] > 20 for event in EVENTS), seen
    assert all(faults[fault] > 20 for fault in FAULTS), faults
    assert faults.total() > 20_000, faults


def test_every_law_holds_in_a_world_that_nobody_has_seen():
    laws.proven(ledger_world.run, [random.SystemRandom().randrange(10**6, 10**9)], ledger_world.CALLS)


def test_a_seed_always_comes_to_the_same():
    first, again = ledger_world.run(7), ledger_world.run(7)
    assert first.faults.total() > 20
    assert (first.met_as, first.seen, first.store.dump()) == (again.met_as, again.seen, again.store.dump())


@pytest.mark.verify
@pytest.mark.parametrize("block", range(10))
def test_every_law_holds_in_many_more_worlds(block):
    first = 10_000 + block * MORE
    _, faults = laws.proven(ledger_world.run, range(first, first + MORE), ledger_world.CALLS)
    assert faults.total() > 50 * MORE, faults


@pytest.mark.parametrize("bug", planted.LEDGER)
def test_the_simulation_finds_planted_bugs(monkeypatch, bug):
    for place, name, variant in planted.LEDGER[bug]:
        monkeypatch.setattr(place, name, variant)
    laws.caught(ledger_world.run, ledger_world.CALLS[-1], bug)


def test_it_finds_a_driver_that_sends_a_write_again():
    laws.caught(
        functools.partial(ledger_world.run, driver_retries=True), ledger_world.CALLS[-1], "a driver sends a write again"
    )


def test_a_failure_shortens_itself_to_the_faults_it_takes():
    run = functools.partial(ledger_world.run, driver_retries=True)
    world = next(world for seed in range(100) if (world := run(seed)).broken and world.faults.total() > 40)
    told = laws.shortened(run, world, ledger_world.CALLS)
    assert f"seed {world.seed}: " in told
    again = re.search(r"again: run\((\d+), (\d+), upto=(\d+), without=(\{.*\}|frozenset\(\))\)", told)
    seed, size, upto = map(int, again.groups()[:3])
    without = set(map(int, re.findall(r"\d+", again[4])))
    shortest = run(seed, size, upto=upto, without=without)
    assert shortest.broken
    assert size < world.size
    assert shortest.faults.total() <= 3, told
