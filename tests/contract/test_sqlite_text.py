"""SQLite's writer changes in a large item's text what changed: what is stored is read as if it were written anew."""

import contextlib
import random
import sqlite3

import pytest

from buspass.jsontext import canonical, written
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
from buspass.tools.schema import parse_json
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


def stored(connection):
    """Give the items by task, each as its one text; no name may stand twice."""
    rows = connection.execute("SELECT part, value FROM item WHERE key IN ('k', 'head')")
    return {part: canonical(parse_json(value.encode())) for part, value in rows}


@pytest.mark.parametrize(("large", "many", "own"), [(0, 1, 50), (0, 8, 900), (200, 8, 4032), (2048, 8, 4032)])
def test_what_is_stored_is_read_as_what_would_be_written_anew(tmp_path, monkeypatch, closing_later, large, many, own):
    for name, value in (("LARGE", large), ("MANY", many), ("OWN", own), ("PAGE", own), ("SPARE", many), ("STEP", 16)):
        monkeypatch.setattr(sqlite_text, name, value)
    monkeypatch.setattr(sqlite_text, "KEPT", 1 if large else 2)
    file = File(parse(f"sqlite:///{tmp_path}/state.db?durability=process"))
    committers = [closing_later(Committer(file)) for _ in range(2)]
    chance = random.Random(7 + large + many)
    for each in committers:
        each._cursor = Failing(each._cursor, chance)
    reader = closing_later(sqlite3.connect(tmp_path / "state.db"))
    there, applied, failed, turn = dict.fromkeys("pq"), 0, 0, 0
    for _ in range(300):
        after, applies = dict(there), []
        for _ in range(chance.randint(1, 6)):
            task = chance.choice("pq")
            one = sound(after[task], chance)
            applies.append((task, [one]))
            after[task] = outcome(one, after[task])
        turn ^= chance.random() < 0.1
        answers = committers[turn].commit(applies)
        if isinstance(answers[0], OutcomeUnknown | Unavailable):
            failed += 1
        else:
            there = after
            applied += sum(isinstance(answer, Applied) for answer in answers)
        assert stored(reader) == {task: canonical(one) for task, one in there.items() if one is not None}
    assert applied > 300
    assert failed > 10
    assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def calls(number):
    return {f"c{each}": {"state": "x" * 100, "n": each} for each in range(number)}


def step(name, value=None):
    """Let a call go, or enter it."""
    path = at("open", name)
    if value is None:
        return Update("head", (Present(path),), {at("n"): 1}, {}, (path,))
    return Update("head", (Absent(path),), {at("n"): 1}, {path: value})


@pytest.fixture
def committer(tmp_path, closing_later):
    return closing_later(Committer(File(parse(f"sqlite:///{tmp_path}/state.db"))))


def pages(folder):
    """Count the pages that the log has, each with its header of 24 bytes."""
    return (folder / "state.db-wal").stat().st_size // (4096 + 24)


def test_of_a_large_item_only_what_changed_is_written(tmp_path, committer):
    statements = []
    head = {"n": 1, "open": calls(300), "m": {"last": 1}}
    committer.commit([("t", [Put("head", head)])])
    committer.commit([("t", [step("c1")])])
    committer.commit([("t", [step("c2")])])  # now it is large twice, and has its sheet
    committer._connection.set_trace_callback(statements.append)
    before = pages(tmp_path)
    for number in range(100, 110):
        committer.commit([("t", [step(f"d{number}", {"state": "y" * 100, "n": 0})])])
        committer.commit([("t", [step(f"d{number}")])])
    assert not [each for each in statements if each.startswith("UPDATE")]
    assert pages(tmp_path) - before <= 20 * 3  # the row's own, and where a place lies, of a dozen
    reader = sqlite3.connect(tmp_path / "state.db")
    del head["open"]["c1"], head["open"]["c2"]
    assert stored(reader) == {"t": canonical(head | {"n": 23})}
    reader.close()


def test_a_large_item_that_became_small_is_written_without_blanks(tmp_path, committer):
    head = {"n": 1, "open": calls(64), "m": {"last": 1}}
    committer.commit([("t", [Put("head", head)])])
    for number in range(63):
        committer.commit([("t", [step(f"c{number}")])])
    reader = sqlite3.connect(tmp_path / "state.db")
    last = head | {"n": 64, "open": {"c63": head["open"]["c63"]}}
    assert reader.execute("SELECT value FROM item").fetchone() == (written(last).decode(),)
    reader.close()


def test_another_opening_that_changes_the_item_is_not_written_over(tmp_path, committer, closing_later):
    other = closing_later(Committer(File(parse(f"sqlite:///{tmp_path}/state.db"))))
    head = {"n": 1, "open": calls(20), "m": {"last": 1}}
    committer.commit([("t", [Put("head", head)])])
    for number in range(10):
        committer.commit([("t", [step(f"a{number}", {"n": number})])])
        if number % 3 == 2:
            other.commit([("t", [step(f"b{number}", {"n": number}), Put(f"else{number}", {"n": 1})])])
    reader = closing_later(sqlite3.connect(tmp_path / "state.db"))
    added = {f"a{number}": {"n": number} for number in range(10)} | {
        f"b{number}": {"n": number} for number in (2, 5, 8)
    }
    assert stored(reader) == {"t": canonical(head | {"n": 14, "open": head["open"] | added})}


def test_a_row_that_is_not_as_long_as_it_was_written_is_written_as_a_whole(tmp_path, committer, monkeypatch):
    """Nothing of ours makes it so; what is written over it has to be an item all the same."""
    head = {"n": 1, "open": calls(20), "m": {"last": 1}}
    committer.commit([("t", [Put("head", head)])])
    for number in range(3):
        committer.commit([("t", [step(f"a{number}", {"n": number})])])
    reader = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    reader.execute("UPDATE item SET value = '         ' || value")
    monkeypatch.setattr(Committer, "_forget_if_others_wrote", lambda _: None)
    committer.commit([("t", [step("c3")])])
    added = {f"a{number}": {"n": number} for number in range(3)}
    del head["open"]["c3"]
    assert stored(reader) == {"t": canonical(head | {"n": 5, "open": head["open"] | added})}
    reader.close()


def test_the_text_that_a_put_brings_is_stored_until_the_item_changes(tmp_path, closing_later):
    committer = closing_later(Committer(File(parse(f"sqlite:///{tmp_path}/state.db?durability=process"))))
    reader = closing_later(sqlite3.connect(tmp_path / "state.db"))
    text, value = b'{"a": "brought", "n": 1}', {"n": 1, "m": {"x": 1}}
    form = Form(Update("k", (Absent(("m", VARIES)),), {at("n"): Given(0)}, {("m", VARIES): Given(1)}))
    plain = Update("k", (Absent(at("m", "z")),), {at("n"): 1}, {at("m", "z"): 2})
    for later, stored in (
        ([], text.decode()),
        ([form.of("y", (1, 2))], '{"n":2,"m":{"x":1,"y":2}}'),
        ([plain], '{"n":2,"m":{"x":1,"z":2}}'),
        ([Delete("k", ()), Put("k", {"n": 5})], '{"n":5}'),
        ([Delete("k", ())], None),
    ):
        applies = [("p", [step]) for step in (Put("k", value, text=text), *later)]
        answers = committer.commit(applies)
        assert all(isinstance(answer, Applied) for answer in answers), answers
        there = reader.execute("SELECT value FROM item").fetchall()
        assert there == ([] if stored is None else [(stored,)])
        committer.commit([("p", [Delete("k", ())])])
