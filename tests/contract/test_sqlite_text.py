"""SQLite's writer keeps the text of what did not change in a large item: what it stores is as if it had kept nothing."""

import contextlib
import random
import sqlite3

import pytest

from buspass.jsontext import written
from buspass.ports.forms import VARIES, Form, Given
from buspass.ports.state import (
    Absent,
    Applied,
    Delete,
    Equals,
    OutcomeUnknown,
    Prepared,
    Present,
    Put,
    Unavailable,
    Update,
    accepts,
    at,
    changed,
    check,
)
from buspass_onprem import sqlite_text
from buspass_onprem.sqlite_commit import Committer
from buspass_onprem.sqlite_file import File, parse

MAPS = ("x", "y", "z")
NAMES = [f"n{number}" for number in range(10)]
VALUES = [1, True, None, "é\n", "", [1, "x"], {"a": {"b c": 2}}, {"a": 1}, {}]


class Failing:
    """The writer's cursor, of which now and then a commit fails."""

    def __init__(self, cursor, chance):
        self._cursor, self._chance = cursor, chance

    def execute(self, statement, values=()):
        if statement == "COMMIT" and self._chance.random() < 0.1:
            raise sqlite3.OperationalError("disk I/O error")
        return self._cursor.execute(statement, values)


def item(chance):
    maps = {
        name: {each: chance.choice(VALUES) for each in chance.sample(NAMES, chance.choice((2, 8, 9)))} for name in MAPS
    }
    return {"before": chance.randint(0, 9), **maps, "after": "é"}


def update(there, chance):
    """Change a few things of what is there; the one condition is on an entry that is set or goes."""
    table, name = chance.choice(MAPS), chance.choice(NAMES)
    path = at(table, name)
    if name in there[table] and chance.random() < 0.7:
        return Update("k", (Present(path),), {at("before"): 1}, {}, (path,))
    other = at(chance.choice(MAPS), chance.choice(NAMES))
    more = {other: chance.choice(VALUES)} if other != path else {}
    numbers = [at(each, some) for each in MAPS for some, value in there[each].items() if type(value) is int]
    add = {number: 1 for number in numbers[:1] if number not in {path, *more}}
    return Update("k", (Absent(path),), add, {path: chance.choice(VALUES), **more})


def prepared(there, chance):
    """Make an entry or let one go, as a call does."""
    table, name = chance.choice(MAPS), chance.choice(NAMES)
    if there[table].get(name) == {"a": 1}:
        require = (Equals((table, VARIES, "a"), 1),)
        return Form(Update("k", require, {at("before"): Given(0)}, {}, ((table, VARIES),))).of(name, (1,))
    require, value = (Absent((table, VARIES)),), {"a": 1} if chance.random() < 0.8 else chance.choice(VALUES)
    return Form(Update("k", require, {at("before"): Given(0)}, {(table, VARIES): Given(1)})).of(name, (1, value))


def operation(there, chance):
    if there is None:
        return Put("k", item(chance))
    if chance.random() < 0.1:
        return Delete("k", ()) if chance.random() < 0.5 else Put("k", item(chance), (Present(at("x")),))
    return update(there, chance) if chance.random() < 0.5 else prepared(there, chance)


def sound(there, chance):
    while True:
        one = operation(there, chance)
        try:
            check([one])
        except ValueError:  # a put that satisfies its own condition, say
            continue
        return one


def outcome(one, there):
    if not accepts(one, there):
        return there
    return changed(one, there) if isinstance(one, Update | Prepared) else one.value if isinstance(one, Put) else None


@pytest.fixture
def closing_later():
    with contextlib.ExitStack() as stack:
        yield lambda thing: stack.enter_context(contextlib.closing(thing))


@pytest.mark.parametrize("large", [0, 200, sqlite_text.LARGE])
def test_what_is_stored_is_what_would_be_written_anew(tmp_path, monkeypatch, closing_later, large):
    monkeypatch.setattr(sqlite_text, "LARGE", large)
    monkeypatch.setattr(sqlite_text, "KEPT", 1 if large else 2)
    committer = closing_later(Committer(File(parse(f"sqlite:///{tmp_path}/state.db?durability=process"))))
    chance = random.Random(7 + large)
    committer._cursor = Failing(committer._cursor, chance)
    reader = closing_later(sqlite3.connect(tmp_path / "state.db"))
    there, applied, failed = dict.fromkeys("pq"), 0, 0
    for _ in range(600):
        after, applies = dict(there), []
        for _ in range(chance.randint(1, 6)):
            task = chance.choice("pq")
            one = sound(after[task], chance)
            applies.append((task, [one]))
            after[task] = outcome(one, after[task])
        answers = committer.commit(applies)
        if isinstance(answers[0], OutcomeUnknown | Unavailable):
            failed += 1
        else:
            there = after
            applied += sum(isinstance(answer, Applied) for answer in answers)
        stored = dict(reader.execute("SELECT part, value FROM item"))
        assert stored == {task: written(one).decode() for task, one in there.items() if one is not None}
    assert applied > 500
    assert failed > 20


def test_of_a_large_item_only_what_changed_is_written(monkeypatch):
    seen = []
    monkeypatch.setattr(sqlite_text, "written", lambda value: seen.append(len(written(value))) or written(value))
    texts = sqlite_text.Texts()
    there = {"n": 1, "open": {f"c{number}": {"state": "x" * 100} for number in range(64)}, "m": {}}
    assert texts.of(("p", "k"), there, None, None) == written(there).decode()
    for number in range(100, 112):
        path = at("open", f"c{number}")
        step = Update("k", (Absent(path),), {at("n"): 1}, {path: {"state": "y"}})
        if number % 2:
            form = Form(Update("k", (Absent(("open", VARIES)),), {at("n"): 1}, {("open", VARIES): Given(0)}))
            step = form.of(f"c{number}", ({"state": "y"},))
        after = changed(step, there)
        assert texts.of(("p", "k"), after, there, [step]) == written(after).decode()
        there = after
        if number == 101:  # one until its text is kept, one until its entries' are
            seen.clear()
    assert sum(seen) < 9 * 100
