"""SQLite keeps the contract, and what it adds: durable URLs, group commit, several processes, kill -9, a lost file."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from buspass.jsontext import read
from buspass.ports.state import (
    Absent,
    Applied,
    Delete,
    Equals,
    OutcomeUnknown,
    Present,
    Put,
    Refused,
    Unavailable,
    Update,
    at,
)
from buspass.testing.state_contract import StateContract
from buspass_onprem import sqlite, sqlite_commit
from buspass_onprem.sqlite_file import parse

WRITER = Path(__file__).with_name("sqlite_writer.py")


class TestContract(StateContract):
    @pytest.fixture(params=["power", "process"])
    async def state(self, tmp_path, request):
        state = await sqlite.open(f"sqlite:///{tmp_path}/state.db?durability={request.param}")
        yield state
        await state.close()


class TestContractFromTwoOpenings(StateContract):
    """Half of the calls go to another opening of the same file."""

    @pytest.fixture
    async def state(self, tmp_path):
        both = [await sqlite.open(f"sqlite:///{tmp_path}/state.db?durability=process") for _ in range(2)]
        yield Alternating(both)
        for one in both:
            await one.close()


class Alternating:
    def __init__(self, states):
        self.states = states
        self.turn = 0

    def __getattr__(self, name):
        self.turn += 1
        return getattr(self.states[self.turn % 2], name)

    async def close(self):
        await asyncio.gather(*(state.close() for state in self.states))


@pytest.fixture
async def opened(tmp_path):
    state = await sqlite.open(url(tmp_path))
    yield state
    await state.close()


def url(folder):
    return f"sqlite:///{folder}/state.db"


def connected(folder):
    return sqlite3.connect(folder / "state.db", isolation_level=None)


# ── URLs and files ──


def test_urls():
    assert parse("sqlite:////var/x%20y/s.db").path == Path("/var/x y/s.db")
    assert parse("sqlite:///s.db").path == Path.cwd() / "s.db"
    assert parse("sqlite:///s.db").durability == "power"
    assert parse("sqlite:///s.db?durability=process").durability == "process"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("sqlite://s.db", "sqlite:///PATH"),
        ("sqlite:///", "sqlite:///PATH"),
        ("sqlite:////folder/", "sqlite:///PATH"),
        ("sqlite3:///s.db", "sqlite:///PATH"),
        ("sqlite:///s.db#x", "sqlite:///PATH"),
        ("sqlite:///s.db?durability=none", "power and process"),
        ("sqlite:///s.db?durability=", "power and process"),
        ("sqlite:///s.db?sync=full", "'sync'"),
        ("sqlite:///s.db?durability=power&durability=process", "once"),
    ],
)
async def test_a_bad_url_is_named(wrong, why):
    with pytest.raises(ValueError, match=why):
        await sqlite.open(wrong)


async def test_the_file_and_its_folder_are_made_for_their_owner_only(tmp_path):
    state = await sqlite.open(f"sqlite:///{tmp_path}/a/b/state.db")
    assert (tmp_path / "a/b/state.db").stat().st_mode & 0o777 == 0o600
    await state.close()


async def test_durability_is_sqlites_synchronous(tmp_path):
    for durability, synchronous in (("power", 2), ("process", 1)):
        state = await sqlite.open(f"{url(tmp_path)}?durability={durability}")
        for connection in (state._committer._connection, state._reader):
            assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        await state.close()


async def test_a_file_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "state.db").write_bytes(b"my diary, not a database" * 100)
    with pytest.raises(ValueError, match="no SQLite file"):
        await sqlite.open(url(tmp_path))
    assert (tmp_path / "state.db").read_bytes().startswith(b"my diary")
    (tmp_path / "state.db").unlink()
    connected(tmp_path).execute("CREATE TABLE recipes (name TEXT)").connection.close()
    with pytest.raises(ValueError, match="not one of Buspass"):
        await sqlite.open(url(tmp_path))


async def test_a_newer_layout_is_refused(tmp_path, opened):
    connection = connected(tmp_path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(ValueError, match="layout 2"):
        await sqlite.open(url(tmp_path))


async def test_a_place_that_cannot_be_had_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="can't be opened"):
        await sqlite.open(f"sqlite:///{tmp_path}/file/state.db")


async def test_what_was_answered_is_there_after_opening_again(tmp_path):
    for n in range(3):
        state = await sqlite.open(url(tmp_path))
        assert await state.apply("t", [Put(f"k{n}", {"n": n})]) == Applied({"n": n})
        assert [key for key, _ in await state.list("t", "", "", 9)] == [f"k{m}" for m in range(n + 1)]
        await state.close()
    assert not (tmp_path / "state.db-wal").exists()


# ── group commit ──


async def test_what_waits_together_is_committed_together(tmp_path, opened):
    connection = connected(tmp_path)
    statements = []
    opened._committer._connection.set_trace_callback(statements.append)
    connection.execute("BEGIN IMMEDIATE")
    waiting = [asyncio.create_task(opened.apply(f"t{n}", [Put("k", {"n": n})])) for n in range(100)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    connection.execute("ROLLBACK")
    answers = await asyncio.gather(*waiting)
    assert all(isinstance(answer, Applied) for answer in answers)
    assert statements.count("COMMIT") <= 2  # the first may have been taken alone
    assert sum(each.startswith("INSERT") for each in statements) <= 5
    stored = {part: read(value) for part, value in connection.execute("SELECT part, value FROM item")}
    assert stored == {f"t{n}": {"n": n} for n in range(100)}
    connection.close()


async def test_what_is_remembered_is_read_again_once_another_has_written(tmp_path, opened):
    def step(n):
        return [Update("head", (Equals(at("n"), n),), {at("n"): 1})]

    other = await sqlite.open(url(tmp_path))
    statements = []
    await opened.apply("t", [Put("head", {"n": 0})])
    assert await opened.apply("t", step(0)) == Applied({"n": 1})
    opened._committer._connection.set_trace_callback(statements.append)
    assert await opened.apply("t", step(1)) == Applied({"n": 2})
    assert not [each for each in statements if each.startswith("SELECT")]
    assert await other.apply("t", step(2)) == Applied({"n": 3})
    assert await opened.apply("t", step(2)) == Refused(0, {"n": 3})
    assert await opened.apply("t", step(3)) == Applied({"n": 4})
    assert await other.apply("t", [Delete("head", (Present(at("n")),))]) == Applied(None)
    assert await opened.apply("t", step(4)) == Refused(0, None)
    await other.close()


async def test_nothing_is_remembered_of_a_commit_that_failed(opened):
    await opened.apply("t", [Put("k", {"n": 1})])
    update = [Update("k", (Equals(at("n"), 1),), {at("n"): 1})]
    committer = opened._committer
    cursor, committer._cursor = committer._cursor, Failing(committer._cursor, "COMMIT")
    with pytest.raises(OutcomeUnknown, match="disk I/O"):
        await opened.apply("t", update)
    committer._cursor = cursor
    assert await opened.apply("t", update) == Applied({"n": 2})


async def test_a_record_that_is_there_refuses_its_own_apply_alone(opened):
    await opened.apply("t", [Put("head", {"n": 0}), Put("rec:1", {"n": 1})])

    def step(n):
        return [Put(f"rec:{n}", {"n": n}), Update("head", (Absent(at(f"x{n}")),), {at("n"): 1}, {at(f"x{n}"): 1})]

    answers = await asyncio.gather(*(opened.apply("t", step(n)) for n in range(3)))
    assert [type(answer) for answer in answers] == [Applied, Refused, Applied]
    assert answers[1] == Refused(0, {"n": 1})
    assert await opened.read("t", "head") == {"n": 2, "x0": 1, "x2": 1}


async def test_a_put_and_a_delete_together_meet_the_record_that_is_there(opened):
    await opened.apply("t", [Put("k", {"n": 1})])
    batch = [("t", [Put("k", {"n": 2})]), ("t", [Delete("k", (Equals(at("n"), 1),))])]
    assert list(opened._committer.commit(batch)) == [Refused(0, {"n": 1}), Applied(None)]
    batch = [("t", [Put("k", {"n": 1})]), ("t", [Put("l", {"n": 1}), Update("k", (Equals(at("n"), 2),), {at("n"): 1})])]
    assert list(opened._committer.commit(batch)) == [Applied({"n": 1}), Refused(1, {"n": 1})]
    assert await opened.read("t", "l") is None


async def test_a_refusal_does_not_undo_its_neighbours(opened):
    await opened.apply("t", [Put("head", {"n": 0})])

    def step(n):
        return [Put(f"rec:{n}", {"n": n}), Update("head", (Equals(at("n"), n),), {at("n"): 1})]

    wrong = Update("head", (Absent(at("x")),), {at("no", "map"): 1}, {at("x"): 1})
    answers = await asyncio.gather(
        opened.apply("t", step(0)),
        opened.apply("t", step(7)),
        opened.apply("t", [Put("rec:9", {"n": 9}), wrong]),
        opened.apply("t", step(1)),
        return_exceptions=True,
    )
    assert answers[0] == Applied({"n": 1})
    assert answers[1] == Refused(1, {"n": 1})
    assert isinstance(answers[2], ValueError)
    assert answers[3] == Applied({"n": 2})
    assert [key for key, _ in await opened.list("t", "rec:", "", 9)] == ["rec:0", "rec:1"]


async def test_an_item_may_come_and_go_within_one_commit(tmp_path, opened):
    connection = connected(tmp_path)
    connection.execute("BEGIN IMMEDIATE")
    entry = {"due": ("0", "1")}
    applies = [
        [Put("a", {"n": 1}, index=entry)],
        [Delete("a", ())],
        [Put("a", {"n": 2})],
        [Put("b", {"n": 1}, index=entry)],
        [Delete("b", ())],
    ]
    waiting = [asyncio.create_task(opened.apply("t", operations)) for operations in applies]
    await asyncio.sleep(0.02)
    connection.execute("ROLLBACK")
    connection.close()
    assert all(isinstance(answer, Applied) for answer in await asyncio.gather(*waiting))
    assert await opened.list("t", "", "", 9) == [("a", {"n": 2})]
    assert await opened.find("due", "0", "9", 9) == []


async def test_close_answers_what_was_asked_before(tmp_path):
    state = await sqlite.open(url(tmp_path))
    writes = [asyncio.create_task(state.apply("t", [Put(f"k{n}", {"n": n})])) for n in range(300)]
    await asyncio.sleep(0)
    await state.close()
    assert all(isinstance(answer, Applied) for answer in await asyncio.gather(*writes))
    assert not [t for t in threading.enumerate() if t.name.startswith("sqlite-")]


def test_callers_on_several_event_loops(tmp_path):
    async def opening():
        return await sqlite.open(url(tmp_path))

    state = asyncio.run(opening())
    answers = []

    def elsewhere(n):
        answers.append(asyncio.run(state.apply("t", [Put(f"k{n}", {"n": n})])))

    threads = [threading.Thread(target=elsewhere, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.item["n"] for answer in answers) == [0, 1, 2, 3]
    asyncio.run(state.close())


# ── trouble ──


async def test_a_file_kept_locked_is_unavailable_after_a_while(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(sqlite_commit, "WAIT", 0.1)
    connection = connected(tmp_path)
    connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await opened.apply("t", [Put("k", {"n": 1})])
    assert await opened.read("t", "k") is None
    connection.execute("ROLLBACK")
    connection.close()
    assert await opened.apply("t", [Put("k", {"n": 1})]) == Applied({"n": 1})


class Failing:
    """A cursor (or a connection) on which one statement fails as a disk would make it fail."""

    def __init__(self, connection, statement):
        self.connection, self.statement = connection, statement

    def execute(self, statement, *values):
        if statement.startswith(self.statement):
            raise sqlite3.OperationalError("disk I/O error")
        return self.connection.execute(statement, *values)

    def __getattr__(self, name):
        return getattr(self.connection, name)


async def test_a_commit_that_fails_leaves_the_outcome_unknown(opened):
    await opened.apply("t", [Put("k", {"n": 1})])
    committer = opened._committer
    cursor, committer._cursor = committer._cursor, Failing(committer._cursor, "COMMIT")
    with pytest.raises(OutcomeUnknown, match="disk I/O"):
        await opened.apply("t", [Put("l", {"n": 1})])
    with pytest.raises(Unavailable, match="disk I/O"):
        await opened.apply("t", [Put("k", {"n": 2})])
    committer._cursor = cursor
    assert await opened.apply("t", [Put("l", {"n": 1})]) == Applied({"n": 1})


@pytest.mark.parametrize("statement", ["SELECT", "INSERT", "UPDATE"])
async def test_a_statement_that_fails_applies_nothing(opened, statement):
    await opened.apply("t", [Put("k", {"n": 1})])
    committer = opened._committer
    cursor, committer._cursor = committer._cursor, Failing(committer._cursor, statement)
    operations = [Put("l", {"n": 1}), Update("k", (Equals(at("n"), 1),), {at("n"): 1})]
    with pytest.raises(Unavailable, match="disk I/O"):
        await opened.apply("t", operations)
    committer._cursor = cursor
    assert await opened.read("t", "l") is None
    assert await opened.apply("t", operations) == Applied({"n": 2})


async def test_a_read_that_fails_is_unavailable(opened):
    opened._reader = Failing(opened._reader, "SELECT")
    with pytest.raises(Unavailable, match="disk I/O"):
        await opened.read("t", "k")


async def test_a_mistake_of_ours_reaches_its_caller_and_unlocks_the_file(opened, monkeypatch):
    def broken(*_):
        raise KeyError("a mistake")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_commit, "accepts", broken)
        with pytest.raises(KeyError):
            await opened.apply("t", [Delete("k", ())])
    assert await opened.apply("t", [Put("k", {"n": 1})]) == Applied({"n": 1})


async def test_a_lost_or_replaced_file_is_noticed(tmp_path, opened):
    await opened.apply("t", [Put("k", {"n": 1})])
    (tmp_path / "state.db").rename(tmp_path / "gone.db")
    for call in (opened.read("t", "k"), opened.apply("t", [Put("l", {"n": 1})])):
        with pytest.raises(Unavailable, match="is lost"):
            await call
    (tmp_path / "state.db").touch()
    for call in (opened.read("t", "k"), opened.apply("t", [Put("l", {"n": 1})])):
        with pytest.raises(Unavailable, match="replaced"):
            await call


def test_after_a_fork_the_store_says_so(tmp_path):
    script = """
        import asyncio, os, sys
        from buspass.ports.state import Put, Unavailable
        from buspass_onprem import sqlite
        async def tried(state):
            for call in (state.apply("t", [Put("k", {"n": 1})]), state.read("t", "k")):
                try:
                    await call
                except Unavailable as error:
                    print(error)
            await state.close()
        state = asyncio.run(sqlite.open(sys.argv[1]))
        if os.fork() == 0:
            asyncio.run(tried(state))
            sys.stdout.flush()
            os._exit(0)
        os.wait()
        asyncio.run(state.apply("t", [Put("k", {"n": 2})]))
        asyncio.run(state.close())
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script), url(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("before a fork") == 2


# ── several processes ──


def writers(folder, count, callers, calls, opens=1):
    return [
        subprocess.Popen(
            [sys.executable, WRITER, url(folder), f"p{n}", str(callers), str(calls), str(opens)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(count)
    ]


async def audit(folder, limit, answered):
    """Whatever was answered is there, and nothing is there by half."""
    state = await sqlite.open(url(folder))
    head = await state.read("t", "head")
    records, page = set(), []
    while page := await state.list("t", "rec:", page[-1][0] if page else "", 1000):
        records |= {item["call"] for _, item in page}
    await state.close()
    assert set(head["by"]) == records
    assert head["left"] == limit - len(records) >= 0
    assert answered <= records
    check = connected(folder)
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
    return records


async def new_head(folder, limit):
    state = await sqlite.open(url(folder))
    await state.apply("t", [Put("head", {"left": limit, "by": {}})])
    await state.close()


async def test_processes_share_a_file_and_never_take_more_than_there_is(tmp_path):
    await new_head(tmp_path, 300)
    processes = writers(tmp_path, 3, 16, 200)
    answered = {line for process in processes for line in process.communicate(timeout=120)[0].split()}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert await audit(tmp_path, 300, answered) == answered
    assert len(answered) == 300


async def test_processes_that_come_and_go_at_once_all_open_the_file(tmp_path):
    """The last one out takes the WAL away, and a newcomer meets a lock for which SQLite does not wait."""
    processes = writers(tmp_path, 4, 1, 0, opens=60)
    assert [process.communicate(timeout=120)[0] for process in processes] == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4


async def test_kill_minus_nine_loses_nothing_that_was_answered(tmp_path):
    for wait in (0.02, 0.1, 0.25):
        folder = tmp_path / str(wait)
        await new_head(folder, 100_000)
        processes = writers(folder, 2, 8, 100_000)
        first = processes[0].stdout.readline().strip()
        time.sleep(wait)
        for process in processes:
            process.send_signal(signal.SIGKILL)
        lines = [first]
        for process in processes:
            *whole, _cut = process.communicate(timeout=120)[0].split("\n")
            lines += whole
        answered = set(lines)
        assert len(await audit(folder, 100_000, answered)) >= len(answered) > 0
