"""The books of three trust domains are right whatever fails; and bugs planted in pools, children and peers are found."""

import functools
import logging
import random

import domain_world
import laws
import letters
import notary
import planted
import pytest

WORLDS, MORE = 64, 200
"""Worlds of which is counted what happened, and those of each block besides; a world meets 160 faults and more. The quick
suite has one that nobody has seen."""
HAPPENED = ("thought", "paid", "child", "complete", "kill", "suspend", "budget_exhausted", "budget_held")
BETWEEN = ("/oauth2/token", "/v1/peers/orders", "/v1/peers/statements", "child at a peer")
FAULTS = ("unknown", "down", "throttled", "delayed", "cut", "crash", "frozen", "answer lost", "not sent")
LETTERS = ("letter lost", "letter late", "letter twice", "reply lost", "forged")


@pytest.fixture(scope="module")
def simulate(tmp_path_factory):
    """A function: seed, size and what a world takes beside → the world after its end."""
    settings, signers = letters.founded(tmp_path_factory.mktemp("keys"))
    with pytest.MonkeyPatch.context() as patching:
        notary.installed(patching)
        logging.disable()  # hosts tell of every fault they meet
        yield functools.partial(domain_world.run, settings, signers)
        logging.disable(logging.NOTSET)


@pytest.mark.verify
def test_every_law_holds_in_three_domains(simulate):
    seen, faults = laws.proven(simulate, range(WORLDS), domain_world.SIZES)
    # what never happened was not proven
    assert all(seen[event] > 5 for event in (*HAPPENED, *BETWEEN)), seen
    assert all(faults[fault] > 5 for fault in (*FAULTS, *LETTERS)), faults
    assert faults.total() > 10_000, faults


def test_every_law_holds_in_domains_that_nobody_has_seen(simulate):
    laws.proven(simulate, [random.SystemRandom().randrange(10**6, 10**9)], domain_world.SIZES)


@pytest.mark.verify
@pytest.mark.parametrize("block", range(5))
def test_every_law_holds_in_many_more_domains(simulate, block):
    first = 10_000 + block * MORE
    _, faults = laws.proven(simulate, range(first, first + MORE), domain_world.SIZES)
    assert faults.total() > 100 * MORE, faults


@pytest.mark.verify
@pytest.mark.parametrize("bug", planted.DOMAIN)
def test_the_simulation_finds_bugs_planted_in_domains(simulate, monkeypatch, bug):
    for place, name, variant in planted.DOMAIN[bug]:
        monkeypatch.setattr(place, name, variant)
    laws.caught(simulate, domain_world.SIZES[-1], bug)
