"""The table of a breaker's states, played through: what trips it, what closes it, and how long it stays open."""

from itertools import product
from random import Random
from typing import get_args

import pytest
from msgspec.structs import replace

from buspass.breakers import states
from buspass.breakers.states import CLOSED, TABLE, Breaker, Fault

NOW = 1_790_000_000_000
DEAD = Fault(kind="unreachable")
BUSY = Fault(kind="throttled", status=429, retry_after=7.0)


def after(breaker, *events, now=NOW, gap=10):
    """Play failures ("f"), successes ("s"), and the lease of a probe ("t") as the prober would."""
    for event in events:
        now += gap
        if event == "t":
            now = max(now, breaker.until)
            step = states.taken(breaker, now, "p", 1000)
        elif event == "f":
            step = states.failed(breaker, now, DEAD, breaker.probe)
        else:
            step = states.succeeded(breaker, now, breaker.probe)
        breaker = breaker if step is None else step
    return breaker


def test_the_table_names_every_state_and_no_other():
    names = set(get_args(states.State.__value__))
    assert set(TABLE) == names
    assert {event for row in TABLE.values() for event in row} <= set(get_args(states.Event.__value__))
    assert {state for row in TABLE.values() for state in row.values()} == names


def test_successes_of_a_closed_breaker_change_nothing():
    assert states.succeeded(CLOSED, NOW) is None


def test_the_first_failure_makes_it_suspect_and_the_third_opens_it_for_half_a_minute():
    assert after(CLOSED, "f").state == "suspect"
    assert after(CLOSED, "f", "f").state == "suspect"
    opened = after(CLOSED, "f", "f", "f")
    assert (opened.state, opened.until) == ("open", NOW + 30 + 30_000)
    assert (opened.kind, opened.version) == ("unreachable", 3)


def test_a_success_between_failures_closes_it():
    assert after(CLOSED, "f", "f", "s").state == "closed"
    assert after(CLOSED, "f", "f", "s", "f", "f").state == "suspect"


def test_old_failures_are_forgotten():
    assert after(CLOSED, "f", "f", "f", gap=states.FORGET + 1).state == "suspect"


def test_an_open_breaker_lets_one_go_when_its_time_is_over_and_no_other():
    opened = after(CLOSED, "f", "f", "f")
    assert states.ask(opened, opened.until - 1) == "refused"
    assert states.taken(opened, opened.until - 1, "p", 1000) is None
    assert states.ask(opened, opened.until) == "probe"
    probed = states.taken(opened, opened.until, "p", 1000)
    assert probed.state == "half_open"
    assert states.ask(probed, opened.until + 999) == "refused"
    assert states.taken(probed, opened.until + 999, "q", 1000) is None
    assert states.comeback(probed, opened.until) == opened.until + 1000


def test_the_lease_of_a_prober_that_died_ends_with_time():
    probed = after(CLOSED, "f", "f", "f", "t")
    other = states.taken(probed, probed.until, "q", 1000)
    assert other.probe == "q"
    assert states.succeeded(other, probed.until + 1, "p") is None, "who lost its lease decides nothing any more"
    assert states.failed(other, probed.until + 1, DEAD, "p") is None
    assert states.succeeded(other, probed.until + 1, "q").state == "recovering"


def test_a_lease_that_is_given_back_leaves_the_probe_to_the_next():
    probed = after(CLOSED, "f", "f", "f", "t")
    back = states.returned(probed, NOW + 50_000, "p")
    assert (back.state, states.ask(back, NOW + 50_000)) == ("open", "probe")
    assert states.returned(probed, NOW, "q") is None


def test_what_was_sent_before_it_opened_changes_nothing():
    opened = after(CLOSED, "f", "f", "f")
    assert states.failed(opened, NOW + 99, DEAD) is None
    assert states.succeeded(opened, NOW + 99) is None


def test_three_successes_close_it_and_one_failure_opens_it_for_longer():
    probed = after(CLOSED, "f", "f", "f", "t")
    assert after(probed, "s").state == "recovering"
    assert after(probed, "s", "s").state == "recovering"
    assert after(probed, "s", "s", "s").state == "closed"
    again = after(probed, "s", "s", "f")
    assert (again.state, again.level) == ("open", 2)
    lasts = []
    breaker = after(CLOSED, "f", "f", "f")
    for _ in range(8):
        lasts.append(breaker.until - breaker.at)
        breaker = after(breaker, "t", "f", now=breaker.until)
    assert lasts == [30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000, 600_000]


def test_how_often_it_opened_is_remembered_for_a_while_after_it_closed():
    closed = after(CLOSED, "f", "f", "f", "t", "s", "s", "s")
    assert closed.level == 1
    soon = after(closed, "f", "f", "f", now=closed.since + 1000)
    assert soon.until - soon.at == 60_000
    late = after(closed, "f", "f", "f", now=closed.since + states.FORGET + 1000)
    assert late.until - late.at == 30_000


def test_a_service_that_says_when_to_come_back_is_taken_at_its_word():
    busy = states.failed(CLOSED, NOW, BUSY)
    assert (busy.state, busy.until, busy.level) == ("open", NOW + 7000, 0)
    silent = replace(BUSY, retry_after=None)
    assert states.failed(CLOSED, NOW, silent).state == "suspect"
    tripped = states.failed(after(CLOSED, "f", "f"), NOW + 50, silent)
    assert tripped.until == NOW + 50 + states.THROTTLED


def test_a_busy_service_that_does_not_keep_its_word_is_left_alone_for_longer_and_longer():
    short = Fault(kind="throttled", status=429, retry_after=1.0)
    breaker, lasts = states.failed(CLOSED, NOW, short), []
    for _ in range(4):
        breaker = states.taken(breaker, breaker.until, "p", 1000)
        breaker = states.failed(breaker, breaker.until, short, "p")
        lasts.append(breaker.until - breaker.at)
    assert lasts == [5_000, 10_000, 20_000, 40_000]


@pytest.mark.parametrize(("good", "bad"), list(product([1, 2, 5, 60], [1, 2, 5, 60])))
def test_a_target_that_flaps_does_not_make_it_thrash(good, bad):
    """It is well for `good` seconds, dead for `bad`, for an hour; ten calls a second ask."""
    breaker, now, changes, reached, dead = CLOSED, NOW, 0, 0, 0
    for tick in range(36_000):
        now += 100
        verdict = states.ask(breaker, now)
        if verdict == "refused":
            continue
        if verdict == "probe":
            breaker, changes = states.taken(breaker, now, "p", 1000), changes + 1
        reached += 1
        well = tick / 10 % (good + bad) < good
        dead += not well
        step = states.succeeded(breaker, now, "p") if well else states.failed(breaker, now, DEAD, "p")
        if step is not None:
            breaker, changes = step, changes + 1
    assert changes <= 120, "a handful of openings an hour, however it flaps"
    assert dead <= 60


def test_it_never_leaves_the_table_whatever_happens():
    random = Random(1)
    for _ in range(200):
        breaker, now = CLOSED, NOW
        for _ in range(100):
            now += random.choice([1, 100, 5_000, 700_000])
            before = breaker
            who = random.choice(["p", "q", ""])
            step = random.choice([
                states.failed(breaker, now, random.choice([DEAD, BUSY]), who),
                states.succeeded(breaker, now, who),
                states.taken(breaker, now, random.choice("pq"), 1000),
                states.returned(breaker, now, who),
            ])  # fmt: skip
            if step is None:
                continue
            breaker = step
            assert breaker.version == before.version + 1
            assert breaker.state in TABLE[before.state].values()
            assert (breaker.state == "half_open") == bool(breaker.probe)
            if breaker.state == "open":
                assert now <= breaker.until <= now + states.LONGEST
            assert isinstance(breaker, Breaker)
