"""Random histories of operations, and their comparison with the memory adapter. Owns what is drawn, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from buspass.ports.state import (
    Absent,
    Applied,
    AtLeast,
    Condition,
    Delete,
    Equals,
    Misfit,
    Operation,
    Path,
    Present,
    Put,
    Refused,
    State,
    Update,
    check,
)

KEYS = ("head", "rec:1", "rec:2")
_VALUES: tuple[Any, ...] = (
    0,
    -7,
    2**53 - 1,
    1 - 2**53,
    "",
    "x",
    "5",
    "é☃😀",
    "a\x00b",
    True,
    False,
    None,
    [],
    [1, [], {}],
    [[None]],
)
_CALLS = ("k1", "k.2", "k-3:4")
_PATHS: tuple[Path, ...] = (
    *(("s",), ("n",), ("v",), ("q",), ("e",), ("m", "x"), ("m", "a.b"), ("m", "zz"), ("s", "x"), ("e", "x")),
    *(("o", "k1"), ("o", "k.2", "st"), ("o", "k1", "n"), ("o", "k1", "v"), ("q", "r", "t"), ("n", "x", "y")),
)


def item(random: Random) -> dict[str, Any]:
    """Draw an item: as a rule one with every kind of value, now and then one of which an update may leave nothing."""
    if random.random() < 0.15:
        return {"o": {call: _entry(random) for call in random.sample(_CALLS, random.randint(0, 2))}}
    return {
        "s": random.choice("ab"),
        "n": random.randint(0, 9),
        "m": {name: random.randint(0, 5) for name in random.sample(["x", "y", "a.b", "c-d"], random.randint(0, 4))},
        "o": {call: _entry(random) for call in random.sample(_CALLS, random.randint(0, 3))},
        "e": {},
        "v": random.choice(_VALUES),
    }


def _entry(random: Random) -> dict[str, Any]:
    return {
        "st": random.choice("ab"),
        "n": random.randint(0, 4),
        "e": {},
        "l": [],
        "v": random.choice(_VALUES),
        "any name": 1,
    }


def _condition(random: Random) -> Condition:
    path = random.choice(_PATHS)
    kind = random.randrange(4)
    if kind == 0:
        return Present(path)
    if kind == 1:
        return Absent(path)
    if kind == 2:
        return Equals(path, random.choice(("a", "b", 1, 2, True, False, "é☃😀", 2**53 - 1)))
    return AtLeast(path, random.randint(-8, 5))


def _index(random: Random) -> dict[str, tuple[str, str] | None]:
    entries = ((random.choice("01"), f"{random.randint(0, 99):02}"), None)
    return {name: random.choice(entries) for name in random.sample(("due", "flow"), random.randint(0, 2))}


def operation(random: Random) -> Operation:
    """Draw one; now and then one that `check` rejects."""
    key, kind, call = random.choice(KEYS), random.random(), random.choice(_CALLS)
    index = _index(random)
    if kind < 0.3:
        require = () if random.random() < 0.6 else (Equals(("s",), random.choice("ab")),)
        return Put(key, item(random), require, index=index)
    if kind < 0.37:
        return Delete(key, tuple(_condition(random) for _ in range(random.randint(0, 2))))
    if kind < 0.55:
        more = tuple(_condition(random) for _ in range(random.randint(0, 2)))
        add = {("m", "x"): random.randint(-3, 3), ("m", "new"): 1, ("n",): random.choice((2, 2, 2**53 - 5))}
        return Update(key, (Absent(("o", call)), *more), add, {("o", call): _entry(random)}, index=index)
    if kind < 0.7:
        mine = Equals(("o", call, "st"), random.choice("ab"))
        value: Any = random.choice((1, "z", [], None))
        return Update(key, (mine,), {("m", "a.b"): -1}, {("v",): value}, (("o", call),), index=index)
    if kind < 0.85:
        parts: dict[Path, Any] = {("s",): "b", ("e", "x"): {"q": {}}}
        return Update(key, (Equals(("s",), "a"), _condition(random)), {}, parts, index=index)
    if kind < 0.93:
        down: dict[Path, int] = {("n",): -3} if random.random() < 0.8 else {("v",): 1, ("q", "r"): 1}
        return Update(key, (Equals(("s",), "b"), AtLeast(("n",), 3)), down, {("s",): "a"})
    if kind < 0.97:
        return Update(key, (Present(("o",)), Equals(("s",), "a")), {}, {("s",): "b"}, (("o",),))
    gone = (("o",), ("s",)) if random.random() < 0.5 else (("o",),)
    return Update(key, tuple(Present(path) for path in gone), remove=gone)


def operations(random: Random) -> Sequence[Operation]:
    """Draw an apply that `check` accepts."""
    while True:
        drawn = [operation(random) for _ in range(random.choice((1, 1, 2, 3)))]
        try:
            check(drawn)
        except ValueError:
            continue
        return drawn


async def outcome(state: State, partition: str, drawn: Sequence[Operation]) -> tuple[Any, ...]:
    """What an apply came to, in a form that compares across adapters."""
    try:
        answer = await state.apply(partition, drawn)
    except Misfit as misfit:
        return ("misfit", misfit.index)
    if isinstance(answer, Applied):
        return ("applied", typed(answer.item))
    assert isinstance(answer, Refused)
    return ("refused", answer.index, typed(answer.item))


def typed(value: Any) -> Any:
    """The value in a form in which True is not 1, and the order of names does not count."""
    if isinstance(value, dict):
        return {name: typed(part) for name, part in value.items()}
    if isinstance(value, list):
        return [typed(part) for part in value]
    return (type(value).__name__, value)
