"""What the state port accepts is decided from an operation's text: each rule by what breaks it and what just keeps it."""

import random

import pytest

from buspass.ports.sound import surely
from buspass.ports.state import (
    WHOLE,
    Absent,
    AtLeast,
    Delete,
    Equals,
    Misfit,
    OutcomeUnknown,
    Present,
    Put,
    Unavailable,
    Update,
    accepts,
    at,
    changed,
    check,
    check_names,
    check_page,
    value_at,
)

ONCE = Absent(at("once"))
BY_ONCE = {at("once"): 1}


def update(require=(ONCE,), add=None, put=None, remove=(), index=None):
    return Update(
        "k", require, add or {}, {**BY_ONCE, **(put or {})} if ONCE in require else put or {}, remove, index=index or {}
    )


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


ACCEPTED = {
    "put without condition": Put("k", {"v": 1}),
    "put that falsifies its condition": Put("k", {"v": 2}, (Equals(at("v"), 1),)),
    "put that falsifies one of two": Put("k", {"v": 2, "w": 1}, (Equals(at("w"), 1), Equals(at("v"), 1))),
    "put of another type": Put("k", {"v": True}, (Equals(at("v"), 1),)),
    "put that lacks what was there": Put("k", {"v": 1}, (Present(at("w")),)),
    "delete": Delete("k", ()),
    "delete with a condition": Delete("k", (Present(at("a", "b", "c")),)),
    "absent and set": update(),
    "absent and added": Update("k", (Absent(at("n")),), {at("n"): 1}),
    "absent below what is set": Update("k", (Absent(at("a", "b", "c")),), set={at("a", "b"): {"c": 1}}),
    "absent and set to null": Update("k", (Absent(at("n")),), set={at("n"): None}),
    "present and removed": Update("k", (Present(at("a", "b")),), remove=(at("a", "b"),)),
    "below what is removed": Update("k", (Equals(at("a", "b", "c"), 1),), remove=(at("a", "b"),)),
    "far below what is removed": Update("k", (AtLeast(at("a", "b", "c"), 1),), remove=(at("a"),)),
    "equal and added to": Update("k", (Equals(at("n"), 1),), {at("n"): 1}),
    "equal and set otherwise": Update("k", (Equals(at("n"), 1),), set={at("n"): 2}),
    "equal and set to another type": Update("k", (Equals(at("n"), 1),), set={at("n"): True}),
    "equal below what is set otherwise": Update("k", (Equals(at("a", "b", "c"), 1),), set={at("a", "b"): {}}),
    "ten changes": update(add={at("n", str(n)): 1 for n in range(9)}),
    "a map at depth two": update(put={at("a", "b"): {"any name": {"": 1} and {"é": 1}}}),
    "whole numbers to the edge": update(add={at("n"): WHOLE, at("m"): -WHOLE}, put={at("v"): [WHOLE, -WHOLE]}),
    "index": update(index={"due": ("0", "9"), "flow": None}),
    "a deep value": Put("k", {"v": nested(23)}),
}

REJECTED = {
    "no float": (Put("k", {"v": 1.0}), "1.0"),
    "no float inside": (update(put={at("a", "b"): {"c": [1.5]}}), "1.5"),
    "no infinity": (Put("k", {"v": float("inf")}), "inf"),
    "no bytes": (Put("k", {"v": b"x"}), "allowed are strings"),
    "no tuple": (Put("k", {"v": (1,)}), "allowed are strings"),
    "no larger integer": (Put("k", {"v": WHOLE + 1}), "2⁵³"),
    "no smaller integer": (update(put={at("v"): -WHOLE - 1}), "2⁵³"),
    "no lone surrogate": (Put("k", {"v": "\ud800"}), "surrogate"),
    "no lone surrogate as a name": (Put("k", {"v": {"a": {"\ud800": 1}}}), "surrogate"),
    "no empty item": (Put("k", {}), "never empty"),
    "no item but a map": (Put("k", [1]), "a map"),
    "no other name at depth one": (Put("k", {"a b": 1}), "A-Za-z"),
    "no other name at depth two": (Put("k", {"a": {"b/c": 1}}), "A-Za-z"),
    "no empty name deeper": (Put("k", {"a": {"b": {"": 1}}}), "not empty"),
    "no name but text": (Put("k", {"a": {"b": {1: 1}}}), "not empty"),
    "not too deep": (Put("k", {"v": nested(24)}), "deeper"),
    "no put that satisfies its condition": (Put("k", {"v": 1}, (Equals(at("v"), 1),)), "applied twice"),
    "no update without a condition": (Update("k", (), {at("n"): 1}), "applied twice"),
    "no present that stays": (Update("k", (Present(at("n")),), {at("n"): 1}), "applied twice"),
    "no at least that is only lowered": (Update("k", (AtLeast(at("n"), 1),), {at("n"): -1}), "applied twice"),
    "no equal plus nothing": (Update("k", (Equals(at("n"), 1),), {at("n"): 0}), "applied twice"),
    "no equal set the same": (Update("k", (Equals(at("n"), 1),), set={at("n"): 1}), "applied twice"),
    "no equal set the same from above": (
        Update("k", (Equals(at("a", "b", "c"), 1),), set={at("a", "b"): {"c": 1}}),
        "applied twice",
    ),
    "no absent that stays": (Update("k", (Absent(at("a")),), {at("b"): 1}), "applied twice"),
    "no absent below a set that lacks it": (
        Update("k", (Absent(at("a", "b", "c")),), set={at("a", "b"): {"d": 1}}),
        "applied twice",
    ),
    "no absent above what is set": (Update("k", (Absent(at("a")),), set={at("a", "b"): 1}), "applied twice"),
    "no present above what is removed": (
        Update("k", (Present(at("a")), Present(at("b", "c"))), {at("n"): 1}, remove=()),
        "applied twice",
    ),
    "no removal that is not required": (update(remove=(at("a"),)), "is removed"),
    "no removal of what is absent": (update((ONCE, Absent(at("a"))), remove=(at("a"),)), "is removed"),
    "no removal below what is required": (update((ONCE, Present(at("a"))), remove=(at("a", "b"),)), "is removed"),
    "no eleventh change": (update(add={at("n", str(n)): 1 for n in range(10)}), "11 changes"),
    "no change twice": (update(add={at("a"): 1}, put={at("a"): 1}), "overlap"),
    "no change that removes, too": (
        update((ONCE, Present(at("a", "b"))), put={at("a", "b"): 1}, remove=(at("a", "b"),)),
        "overlap",
    ),
    "no removal twice": (update((ONCE, Present(at("a"))), remove=(at("a"), at("a"))), "overlap"),
    "no change inside another": (update(add={at("a", "b"): 1}, put={at("a"): 1}), "overlap"),
    "no removal around a change": (
        update((ONCE, Present(at("a"))), {at("a", "b"): 1}, remove=(at("a"),)),
        "overlap",
    ),
    "no map at depth one": (update(put={at("a"): {"b": 1}}), "map set"),
    "no change three deep": (update(put={("a", "b", "c"): 1}), "1-2 segments"),
    "no condition four deep": (update((ONCE, Present(("a", "b", "c", "d")))), "1-3 segments"),
    "no empty path": (update((ONCE, Present(()))), "1-3 segments"),
    "no path but a tuple": (update((ONCE, Present("abc"))), "not a tuple"),
    "no strange segment": (update(put={("a b",): 1}), "segment"),
    "no newline after a segment": (update((ONCE, Present(("a\n",)))), "segment"),
    "no fraction added": (update(add={at("n"): 1.5}), "1.5"),
    "no truth added": (update(add={at("n"): True}), "True"),
    "no at least a fraction": (update((ONCE, AtLeast(at("n"), 1.5))), "AtLeast"),
    "no at least a truth": (update((ONCE, AtLeast(at("n"), True))), "AtLeast"),
    "no equal to null": (update((ONCE, Equals(at("n"), None))), "Equals"),
    "no equal to a list": (update((ONCE, Equals(at("n"), []))), "Equals"),
    "no equal to too much": (update((ONCE, Equals(at("n"), WHOLE + 1))), "2⁵³"),
    "no strange key": (Put("ké", {"v": 1}), "printable"),
    "no empty key": (Delete("", ()), "printable"),
    "no strange index": (update(index={"a b": None}), "allowed are due, flow, tail"),
    "no half an entry": (update(index={"due": ("0",)}), "shard, sort"),
    "no entry as text": (update(index={"due": "09"}), "shard, sort"),
    "no empty sort": (Put("k", {"v": 1}, index={"due": ("0", "")}), "printable"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name):
    check([ACCEPTED[name]])


@pytest.mark.parametrize("name", REJECTED)
def test_rejected(name):
    operation, why = REJECTED[name]
    with pytest.raises(ValueError, match=why):
        check([operation])
    with pytest.raises(ValueError, match=why):
        check([Put("other", {"v": 1}), operation])


def test_what_is_accepted_is_refused_the_second_time():
    """The property behind the rule: applied to an item that satisfies it, an operation refuses the outcome."""
    item = {"n": 1, "v": 1, "w": 1, "a": {"b": {"c": 1}}}
    tried = 0
    for operation in ACCEPTED.values():
        if isinstance(operation, Update) and accepts(operation, item):
            try:
                after = changed(operation, item)
            except Misfit:
                continue
            tried += 1
            assert not accepts(operation, after)
    assert tried >= 10


def test_each_key_at_most_once_and_at_least_one_operation():
    with pytest.raises(ValueError, match="at most once"):
        check([Put("k", {"v": 1}), Put("l", {"v": 1}), Delete("k", ())])
    with pytest.raises(ValueError, match="at least one"):
        check([])


def test_paths_names_and_pages():
    assert at("a", "b.c", "d:e-f_G") == ("a", "b.c", "d:e-f_G")
    for wrong in ((), ("a",) * 4, ("",), ("a/b",), ("é",), ("a" * 129,)):
        with pytest.raises(ValueError, match="segment"):
            at(*wrong)
    check_names("a", "x" * 255, "~ !")
    for wrong_name in ("", "x" * 256, "a\x7f", "a\n", None):
        with pytest.raises(ValueError, match="printable"):
            check_names(wrong_name)
    check_page(1, "", "a")
    for wrong_limit in (0, 1001, 1.0, True):
        with pytest.raises(ValueError, match="limit"):
            check_page(wrong_limit)


def test_a_change_leaves_the_item_it_was_made_from():
    item = {"n": 1, "m": {"x": 1}}
    after = changed(Update("k", (ONCE,), {at("n"): 1, at("m", "x"): 1, at("m", "y"): 2}, BY_ONCE), item)
    assert item == {"n": 1, "m": {"x": 1}}
    assert after == {"n": 2, "m": {"x": 2, "y": 2}, "once": 1}


def test_nothing_may_be_left_of_an_item():
    with pytest.raises(Misfit, match="nothing would be left") as caught:
        changed(Update("k", (Present(at("n")),), remove=(at("n"),)), {"n": 1}, 3)
    assert caught.value.index == 3


def test_values_are_found_by_path():
    assert value_at({"a": {"b": None}}, at("a", "b"), "missing") is None
    assert value_at({"a": {"b": None}}, at("a", "b", "c"), "missing") == "missing"
    assert value_at({"a": [1]}, at("a", "0")) is None


def test_errors_say_which_operation_and_why():
    assert (Unavailable(2).index, OutcomeUnknown(1).index, Misfit(4, "x").index) == (2, 1, 4)
    assert str(Unavailable(2)) == "the store is unavailable (operation 2)"
    assert str(OutcomeUnknown(1)) == "the outcome of operation 1 is unknown"
    assert str(Unavailable(0, "the disk is full")) == "the disk is full"


PATHS = [("a",), ("b",), ("a", "x"), ("a", "y"), ("b", "x"), ("a", "x", "z"), ("a b",), (), ("a", "b", "c", "d"), (1,)]
NUMBERS = [0, 1, -1, WHOLE, -WHOLE, WHOLE + 1, True, 1.0, "1", None]
VALUES = [
    *NUMBERS,
    "é",
    "\ud800",
    [],
    [1.5],
    {"n": {"m": [1, {"o": None}]}},
    {"": 1},
    {"n": {"": 1}},
    {1: 1},
    (1,),
    b"x",
]


def drawn(dice):
    """One operation of those that rules are about, sound or not."""

    def some(pool, most):
        return [dice.choice(pool) for _ in range(dice.randrange(most))]

    require = tuple(
        dice.choice([Present, Absent])(path)
        if dice.random() < 0.5
        else dice.choice([Equals, AtLeast])(path, dice.choice(NUMBERS))
        for path in some(PATHS, 4)
    )
    if dice.random() < 0.3:
        value = {dice.choice(["a", "b", "a b", ""]): dice.choice(VALUES) for _ in range(dice.randrange(3))}
        return Put("k", value, require if dice.random() < 0.2 else ())
    add = {path: dice.choice(NUMBERS[:6]) for path in some(PATHS, 3)}
    put = {path: dice.choice(VALUES) for path in some(PATHS, 3)}
    return Update("k", require, add, put, tuple(some(PATHS, 2)))


def test_what_the_quick_look_lets_through_keeps_every_rule(monkeypatch):
    dice = random.Random(1)
    sure = [operation for operation in (drawn(dice) for _ in range(30_000)) if surely(operation)]
    assert len(sure) > 300
    assert {type(operation) for operation in sure} == {Put, Update}
    monkeypatch.setattr("buspass.ports.state.surely", lambda _operation: False)
    for operation in sure:
        check([operation])
