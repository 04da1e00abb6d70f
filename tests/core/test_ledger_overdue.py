"""Whether a task has calls to be swept is not looked for at every call, and is told as soon as there is one."""

from hypothesis import example, given
from hypothesis import strategies as st

from buspass.ledger import Ledger
from buspass.ledger.holds import expired
from buspass.ledger.ledger import LOOKED, SKEW
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import MemoryState

IN_FLIGHT = {"attempt": "x", "amounts": {}, "cause": "", "state": "dispatching", "kind": "inference", "name": "m", "host": "h", "at": 0, "capped": False}  # fmt: skip
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 100, 4_999, 5_000, 5_001, 9_999, 10_000, 10_001, 60_000])),
    st.tuples(st.just("begin"), st.sampled_from([-SKEW, -SKEW + 1, -1, 0, 1, 500, 30_000])),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("look"), st.just(0)),
)


def book(clock):
    return Ledger(MemoryState(), clock, lambda task, key, record: dict(record))


@given(st.lists(STEPS, max_size=40))
@example([("begin", -SKEW), ("wait", 4_999), ("look", 0), ("wait", 100)])
@example([("look", 0), ("begin", -SKEW), ("wait", 5_001)])
def test_it_is_told_as_soon_as_every_look_would_tell_it(steps):
    """A call's deadline is SKEW before now at the earliest: another host's clock may be late by so much."""
    clock, flying = FakeClock(), {}
    ledger = book(clock)
    for number, (step, amount) in enumerate([*steps, ("look", 0)]):
        if step == "wait":
            clock.advance(amount / 1000)
        elif step == "begin":
            flying[f"c{number}"] = {**IN_FLIGHT, "deadline": clock.now() + amount}
        elif step == "end":
            for call in [*flying][:amount]:
                del flying[call]
        else:
            head = {"open": dict(flying)}
            overdue = expired(head, clock.now(), 2 * SKEW)
            assert ledger.overdue("t", head, clock.now()) == bool(overdue)
            for entry in overdue:
                del flying[entry.call]


def test_a_look_is_made_once_while_nothing_can_be_overdue():
    clock = FakeClock()
    ledger = book(clock)
    late = {"open": {"c": {**IN_FLIGHT, "deadline": 0}}}
    assert not ledger.overdue("t", {"open": {}}, clock.now())
    assert not ledger.overdue("t", late, clock.now()), "known already"
    assert ledger.overdue("another", late, clock.now())
    clock.advance((SKEW + 1) / 1000)
    assert ledger.overdue("t", late, clock.now())


def test_what_is_remembered_has_a_bound():
    ledger = book(FakeClock())
    for number in range(LOOKED + 10):
        ledger.overdue(f"t{number}", {"open": {}}, 0)
    assert len(ledger._looked) <= LOOKED
