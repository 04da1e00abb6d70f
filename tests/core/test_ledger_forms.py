"""A hold and its end are prepared operations that mean what they are written out as here."""

import random

import pytest
from msgspec.structs import replace

from buspass.ledger import Claim, Held, Outcome, new_head
from buspass.ledger.holds import (
    HEAD,
    KEPT,
    OBSERVED,
    RECENT,
    closing,
    ends,
    entry_of,
    releasing,
    settling,
    taken,
    taking,
)
from buspass.ledger.records import entry_held
from buspass.model import ACCOUNTS, SLOTS
from buspass.ports.state import (
    CHANGES,
    Absent,
    AtLeast,
    Equals,
    Prepared,
    Update,
    accepts,
    changed,
    check,
    judged,
    plain,
)

NOW = 1_800_000_000_000


def written_out(claim, attempt, now):
    require = [
        Equals(("status",), "open"),
        Equals(("fence",), claim.fence),
        AtLeast(("expires_at",), now + 1),
        Absent(("open", claim.call)),
        AtLeast(("slots",), 1 + SLOTS - OBSERVED if claim.observed else 1),
    ]
    amounts = {name: amount for name, amount in claim.amounts.items() if amount}
    if not claim.observed:
        require += [AtLeast(("available", name), amount) for name, amount in amounts.items()]
    add = {("available", name): -amount for name, amount in amounts.items()}
    add |= {("slots",): -1, ("version",): 1, ("count", claim.name): 1, ("turns", claim.name): 1}
    if claim.kind == "action":
        add[("running", claim.name)] = 1
    if claim.capped:
        if not claim.observed:
            require.append(AtLeast(("left", claim.name), 1))
        add[("left", claim.name)] = -1
    if claim.version is not None:
        require.append(Equals(("version",), claim.version))
    entry = {
        "attempt": attempt,
        "amounts": amounts,
        "cause": claim.cause,
        "deadline": ends(claim, now),
        "state": "dispatching",
        "kind": claim.kind,
        "name": claim.name,
        "host": claim.host,
        "at": now,
        "capped": claim.capped,
    }
    if claim.observed:
        entry["observed"] = True
    return Update(HEAD, tuple(require), add, {("open", claim.call): entry})


def closed(entry, outcome, now, turn):
    add, put = {}, {}
    for name in sorted(entry.amounts.keys() | outcome.use.keys()):
        if back := entry.amounts.get(name, 0) - outcome.use.get(name, 0):
            add[("available", name)] = back
    add |= {("slots",): 1, ("version",): 1, ("entries",): 1}
    if entry.kind == "action":
        add[("running", entry.name)] = -1
        if outcome.last:
            put[("last", entry.name)] = outcome.last
        if outcome.last == "succeeded":
            add[("done", entry.name)] = 1
        if outcome.kept:
            put[("kept", f"{entry.name}:{turn % KEPT}")] = {"facts": outcome.kept, "at": now, "turn": turn}
    if not outcome.sent:
        add[("count", entry.name)] = -1
        if entry.capped:
            add[("left", entry.name)] = 1
    if outcome.trail and len(add) + len(put) + 1 < CHANGES:
        put[("recent", str(int(outcome.trail.partition(" ")[0]) % RECENT))] = outcome.trail
    mine = Equals(("open", entry.call, "attempt"), entry.attempt)
    return Update(HEAD, (mine,), add, put, (("open", entry.call),))


def drawn(dice):
    kind = dice.choice(["inference", "action"])
    accounts = dice.sample(["tokens", "cost", "calls"], dice.randrange(1, 4))
    return Claim(
        task="t",
        call=f"i{dice.getrandbits(88):022x}",
        kind=kind,
        name=dice.choice(["chat", "look", "a.b-c"]),
        amounts={name: dice.choice([0, 1, 700]) for name in accounts},
        fence=dice.choice([1, 2]),
        deadline=NOW + dice.randrange(100_000),
        lasts=dice.choice([1, 50_000, 2**50]),
        cause=dice.choice(["", "é"]),
        host="h",
        capped=kind == "action" and dice.random() < 0.3,
        version=dice.choice([None, 0, 3]),
        observed=dice.random() < 0.2,
    )


def ended(dice, claim):
    action = claim.kind == "action"
    if dice.random() < 0.2:
        return Outcome(use={}, sent=False)
    return Outcome(
        use={name: dice.choice([0, 1, 700, 900]) for name in [*claim.amounts, "cost"] if dice.random() < 0.8},
        last=dice.choice(["", "succeeded", "failed", "unknown"]) if action else "",
        kept=dice.choice(["", '{"a":1}']) if action and len(claim.amounts) < 3 else "",
        trail=dice.choice(["", "", f"{dice.randrange(40)} said something"]),
    )


def head(claim, dice):
    found = new_head(limits=dict.fromkeys(ACCOUNTS, 1000), expires_at=NOW + 10, max_calls={claim.name: 2})
    more = {"version": dice.choice([0, 3]), "count": {claim.name: 4}, "fence": dice.choice([1, 1, 1, 2])}
    return {**found, **more}


def test_a_hold_and_its_end_mean_what_is_written_out(monkeypatch):
    dice, both = random.Random(3), 0
    for _ in range(600):
        claim = drawn(dice)
        hold = taking(claim, "ab" * 8, NOW)
        assert isinstance(hold, Prepared)
        assert plain(hold) == written_out(claim, "ab" * 8, NOW)
        check([plain(hold)])
        before = head(claim, dice)
        assert accepts(hold, before) == accepts(plain(hold), before)
        hold.form.write()
        assert hold.form.sound(hold.segment, hold.given)
        if not accepts(hold, before):
            assert judged(hold, before) is None
            continue
        during = changed(hold, before)
        assert [*(judged(hold, before) or {}).items()] == [*during.items()]
        assert [*changed(plain(hold), before).items()] == [*during.items()]
        held = Held(claim=claim, attempt="ab" * 8, at=NOW, turn=1, head=during)
        entry = entry_held(held)
        assert entry == entry_of(claim.call, during["open"][claim.call])
        outcome = ended(dice, claim)
        end = closing(entry, outcome, NOW + 5, 17)
        assert plain(end) == closed(entry, outcome, NOW + 5, 17)
        assert isinstance(end, Prepared) == (not outcome.kept)
        check([plain(end)])
        assert accepts(end, during)
        assert changed(end, during) == changed(plain(end), during) == judged(end, during)
        assert settling(held, taken(claim), outcome, NOW + 5) == closing(entry, outcome, NOW + 5, held.turn)
        other = replace(entry, attempt="cd" * 8)
        assert not accepts(closing(other, outcome, NOW + 5, 17), during)
        check([releasing(entry)])
        assert accepts(releasing(entry), during)
        both += 1
    assert both > 100


def test_a_hold_and_its_end_are_judged_without_a_closer_look():
    """Else nothing would be won by writing them out, and nothing seen of it."""
    dice = random.Random(5)
    for _ in range(100):
        claim = replace(drawn(dice), fence=1, version=None)
        name = claim.name
        before = head(claim, dice) | {"fence": 1, "left": {name: 9}}
        before |= {each: {name: 4} for each in ("turns", "running", "done", "last", "count", "recent")}
        hold = taking(claim, "ab" * 8, NOW)
        hold.form.write()
        during = hold.form.judge(before, hold.segment, hold.given)
        held = Held(claim=claim, attempt="ab" * 8, at=NOW, turn=5, head=during)
        end = settling(held, taken(claim), replace(ended(dice, claim), kept=""), NOW + 5)
        end.form.write()
        assert end.form.judge(during, end.segment, end.given)["slots"] == before["slots"]


@pytest.mark.parametrize("strange", [{"name": "a b"}, {"call": "a/b"}, {"amounts": {"cost": 2**60}}, {"fence": None}])
def test_a_claim_outside_of_the_rules_is_an_error(strange):
    with pytest.raises(ValueError, match=r"segment|no form|within|Equals"):
        check([taking(replace(drawn(random.Random(1)), **strange), "ab" * 8, NOW)])


UNSOUND = [None, 1.5, 2**53, True, "\ud800", b"x", (1,), ["\ud800"], {"a b": 1.5}, {"\ud800": 1}, {"": 1}, "é", ["é"]]


def refused(operation):
    try:
        check([operation])
    except (ValueError, TypeError):
        return True
    return False


def test_a_hold_with_anything_in_it_that_the_rules_forbid_is_none(monkeypatch):
    """Whatever lies in a claim: a hold passes just when what is written out passes the whole text of the rules."""
    dice, seen = random.Random(4), {False: 0, True: 0}
    for _ in range(1500):
        claim, attempt = drawn(dice), "ab" * 8
        name = dice.choice(["fence", "cause", "host", "version", "call", "amounts", "attempt", "deadline"])
        value = dice.choice(UNSOUND)
        if name == "attempt":
            attempt = value
        elif name == "deadline":
            claim = replace(claim, deadline=dice.choice([NOW + 0.5, 2**53]), lasts=2**60)
        else:
            claim = replace(claim, **{name: {"cost": value} if name == "amounts" else value})
        try:
            hold = taking(claim, attempt, NOW)
        except (ValueError, TypeError):
            hold = None
        if hold is not None and isinstance(hold, Prepared):
            hold.form.write()
        try:
            whole = written_out(claim, attempt, NOW)
        except TypeError:  # no number at all
            assert hold is None
            continue
        with monkeypatch.context() as patched:
            patched.setattr("buspass.ports.state.surely", lambda _operation: False)
            expected = refused(whole)
        assert (hold is None or refused(hold)) == expected, (claim, attempt)
        seen[expected] += 1
    assert min(seen.values()) > 200, seen
