"""A whole domain's books are right whatever fails; and bugs planted in pools, children and ends are found."""

import asyncio
import functools
import logging
import random
from pathlib import Path

import domain_world
import laws
import notary
import planted
import pytest

from buspass.config.build import load
from buspass_onprem import signer

CONFIG = Path(__file__).parents[1] / "data" / "simulation" / "buspass.yaml"
WORLDS, MORE = 72, 200
"""Worlds in the quick suite, and in each of the five blocks of the slow one; a world meets 140 faults and more."""
HAPPENED = ("thought", "paid", "child", "complete", "kill", "suspend", "budget_exhausted", "budget_held")
FAULTS = ("unknown", "down", "throttled", "delayed", "cut", "crash", "frozen", "answer lost", "not sent")


@pytest.fixture(scope="module")
def simulate(tmp_path_factory):
    """A function: seed, size and what a world takes beside → the world after its end."""
    folder = tmp_path_factory.mktemp("keys")
    settings = load(CONFIG, environ={}, bind="127.0.0.1", port=8700)
    signers = {
        host: notary.Signer(asyncio.run(signer.open("file:", data=folder / host, create=True)))
        for host in domain_world.HOSTS
    }
    with pytest.MonkeyPatch.context() as patching:
        notary.installed(patching)
        logging.disable()  # hosts tell of every fault they meet
        yield functools.partial(domain_world.run, settings, signers)
        logging.disable(logging.NOTSET)


def test_every_law_holds_in_a_domain(simulate):
    seen, faults = laws.proven(simulate, range(WORLDS), domain_world.SIZES)
    # what never happened was not proven
    assert all(seen[event] > 5 for event in HAPPENED), seen
    assert all(faults[fault] > 5 for fault in FAULTS), faults
    assert faults.total() > 10_000, faults


def test_every_law_holds_in_a_domain_that_nobody_has_seen(simulate):
    laws.proven(simulate, [random.SystemRandom().randrange(10**6, 10**9)], domain_world.SIZES)


@pytest.mark.verify
@pytest.mark.parametrize("block", range(5))
def test_every_law_holds_in_many_more_domains(simulate, block):
    first = 10_000 + block * MORE
    _, faults = laws.proven(simulate, range(first, first + MORE), domain_world.SIZES)
    assert faults.total() > 100 * MORE, faults


@pytest.mark.verify
@pytest.mark.parametrize("bug", planted.DOMAIN)
def test_the_simulation_finds_bugs_planted_in_a_domain(simulate, monkeypatch, bug):
    for place, name, variant in planted.DOMAIN[bug]:
        monkeypatch.setattr(place, name, variant)
    laws.caught(simulate, domain_world.SIZES[-1], bug)
