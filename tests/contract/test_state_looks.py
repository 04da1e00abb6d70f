"""A look that was written for maps like one that was sound says of no other that it is, unless the rules do."""

import copy
import random

import pytest

from buspass.ports import sound, straight
from buspass.ports.state import WHOLE, Put, check

NAMES = ["a", "b.c", "d-e", "f", "g", "h"]
DEEPER = ["a", "x y", '"; z "', "é", "'", "\\n"]
PLAIN = ["x", "", "é", 0, 1, -7, WHOLE, -WHOLE, True, False, None, [], [1], [["x"], {"é b": 1}]]
STRANGE = [
    WHOLE + 1,
    -WHOLE - 1,
    1.0,
    float("nan"),
    "\ud800",
    b"x",
    (),
    (1,),
    {1},
    [1.5],
    ["\udfff"],
    {"": 1},
    object(),
]


class Word(str):
    __slots__ = ()


class Number(int):
    __slots__ = ()


class Map(dict):
    __slots__ = ()


def drawn(dice, depth=1):
    """Draw a map whose members lie so deep, most likely a sound one."""
    found = {}
    for name in dice.sample(NAMES if depth <= 2 else DEEPER, dice.randrange(1, 5)):
        found[name] = drawn(dice, depth + 1) if depth < 5 and dice.random() < 0.3 else dice.choice(PLAIN)
    return found


def altered(dice, value):
    """Draw one that is much like this one: other values of the kind, or another kind, name, order or size somewhere."""
    if type(value) is dict and dice.random() < 0.9:
        found = {name: altered(dice, part) if dice.random() < 0.3 else part for name, part in value.items()}
        what = dice.random()
        if what < 0.05:
            found.pop(dice.choice([*found]))
        elif what < 0.1:
            found[dice.choice(["a", "x y", "", "\ud800", "b/c"])] = 1
        elif what < 0.15:
            name = dice.choice([*found])
            part = found.pop(name)
            found[dice.choice(["new", "", "a b", 1])] = part
        elif what < 0.2:
            found = dict(reversed(found.items()))
        return found if dice.random() < 0.97 else Map(found)
    same = [each for each in PLAIN if type(each) is type(value)]
    strange = [*STRANGE, Word("x"), Number(1), Map({"a": 1})]
    return dice.choice(dice.choices([same, PLAIN, strange], [6, 2, 3])[0] or PLAIN)


def soundly(members, depth=1):
    try:
        return sound._members(members, depth) and sound._writable(members)
    except TypeError:
        return False


def by_the_rules(members, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("buspass.ports.state.surely", lambda _operation: False)
        try:
            check([Put("k", members)])
        except ValueError:
            return False
    return True


def test_what_a_look_lets_through_keeps_the_rules(monkeypatch):
    dice = random.Random(1)
    seen = dict.fromkeys(("through", "left", "forbidden"), 0)
    for _ in range(400):
        like = drawn(dice)
        assert soundly(like)
        look = straight.look(like, sound._whole, 1)
        assert look(like)
        for _ in range(12):
            other = altered(dice, copy.copy(like))
            if type(other) is not dict or len(other) != len(like):
                continue
            allowed = by_the_rules(other, monkeypatch)
            try:
                passed = look(other)
            except TypeError:  # what can't be written
                passed = False
            assert allowed or not passed, (like, other)
            seen["through" if passed else "left" if allowed else "forbidden"] += 1
    assert min(seen.values()) > 200, seen


def test_a_look_lets_through_whatever_is_plain_and_of_the_same_names_and_kinds():
    like = {"a": 1, "b": "x", "c": True, "d": {"e": 1, "f": {"g h": ""}}, "i": [], "j": {}}
    look = straight.look(like, sound._whole, 1)
    assert look({"j": {}, "i": [1], "d": {"f": {"g h": "é"}, "e": -WHOLE}, "c": False, "b": "é\n", "a": 0})


def test_looks_are_learned_of_what_comes_often_and_not_of_what_is_large(monkeypatch):
    monkeypatch.setattr(sound, "_LOOKS", {})
    monkeypatch.setattr(sound, "_MET", {})

    def put(value, times=sound.OFTEN):
        for _ in range(times):
            check([Put("k", value)])

    put({"v": 1}, sound.OFTEN - 1)
    assert not sound._LOOKS
    put({"v": 1})
    assert [len(looks) for looks in sound._LOOKS.values()] == [1]
    put({"v": {"w": 1}})
    assert [len(looks) for looks in sound._LOOKS.values()] == [2]
    put({"v": {"w": 5}}, 100)
    assert [len(looks) for looks in sound._LOOKS.values()] == [2]
    for number in range(20):
        put({"v": {f"w{number}": 1}})
    assert [*map(len, sound._LOOKS.values())] < [sound.LOOKS + 1]
    put({"v": {f"w{number}": 1 for number in range(sound.VALUES)}, "w": 1}, 100)
    assert [*sound._LOOKS] == [(1, 1)]
    monkeypatch.setattr(sound, "MET", 3)
    for name in "abcdef":
        put({name: 1}, 1)
    assert len(sound._MET) <= 3


@pytest.mark.parametrize(
    "value", [{"v": 1.5}, {"v": (1,)}, {"v": "\ud800"}, {"v": WHOLE + 1}, {"w w": 1}, {"v": {"a/": 1}}]
)
def test_what_the_rules_forbid_stays_forbidden_once_looks_are_learned(value):
    for like in ({"v": 1}, {"v": "x"}, {"v": []}, {"v": {"a": 1}}, {"v": None}):
        for _ in range(2 * sound.OFTEN):
            check([Put("k", like)])
    for _ in range(2 * sound.OFTEN):
        with pytest.raises(ValueError, match="operation on"):
            check([Put("k", value)])
