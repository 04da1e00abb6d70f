"""Reports: sums equal the journals', whatever was sealed, folded, repeated, compacted or lost in between."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import pytest

from buspass import cli
from buspass.errors import Problem
from buspass.journal.seals import Read, read_all
from buspass.ports.state import OutcomeUnknown, Put, Unavailable
from buspass.reporting import Folding, asked
from buspass.reports import Row, by_day, rollups
from buspass.reports.rows import bucket, from_values, to_values
from buspass.testing.house import Domain
from buspass.testing.state_memory import Crash, MemoryState
from buspass.testing.up import up

TODAY = date(2026, 11, 26)


async def ask(domain: Domain, path: str, token: str | None = None, **query: str) -> Any:
    client = await domain.host()
    token = token or domain.apps["onprem"].house.operator_key
    answer = await client.get(path, params=query, headers={"authorization": f"Bearer {token}"})
    return answer.json() if "json" in answer.headers["content-type"] else answer.text


async def journalled(domain: Domain, *tasks: str) -> Counter[str]:
    """What the records of these tasks sum up to."""
    found: Counter[str] = Counter()
    for task in tasks:
        for record in (await read_all(domain.state, task)).records.values():
            if record.get("kind") in {"inference", "action"}:
                found["records"] += record["state"] != "credit"
                found.update(record["use"])  # type: ignore[arg-type]  # amounts
    return found


def total(report: Any) -> Counter[str]:
    row = dict(report["total"])
    row["cost"] = round(row["cost"] * 1_000_000)
    return Counter({name: amount for name, amount in row.items() if name != "failed"})


# ── over HTTP ──


async def test_spend_equals_the_journals_before_and_after_the_seal(domain: Domain) -> None:
    agents = [await domain.agent(metadata={"team": team}) for team in ("red", "red", "blue")]
    for agent in agents:
        assert (await agent.chat("hello", headers={"Buspass-Metadata": '{"feature": "chat"}'})).status_code == 200
        assert (await agent.call("item", {"id": "7"})).status_code == 200
    wanted = await journalled(domain, *(agent.task for agent in agents))
    assert wanted["cost"] > 0
    for step in (0, 1, 2, 3):
        report = await ask(domain, "/v1/spend", group_by="workflow,team")
        assert total(report) == wanted, step
        assert [(row["team"], row["records"]) for row in report["data"]] == [("red", 4), ("blue", 2)]
        if step < 3:
            await agents[step].post("complete", reason="done")
    by_feature = await ask(domain, "/v1/spend", group_by="feature,kind,tool,alias")
    assert {(row["feature"], row["kind"], row["tool"], row["alias"]) for row in by_feature["data"]} == {
        ("chat", "inference", "", "plan"),
        ("", "action", "item", ""),
    }
    assert {row["model"] for row in (await ask(domain, "/v1/spend", group_by="model,provider"))["data"]} >= {
        "planner-1"
    }


async def test_what_has_ended_is_read_from_rollups_alone(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.chat()
    await agent.post("complete", reason="done")
    wanted = await journalled(domain, agent.task)
    domain.state.inner._items.pop(agent.task)  # type: ignore[attr-defined]  # as an erasure after its retention would
    report = await ask(domain, "/v1/spend")
    assert total(report) == wanted


async def test_latency_is_told_in_percentiles(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.call("item", {"id": "7"})
    report = await ask(domain, "/v1/latency", group_by="tool")
    assert report["data"] == [{"tool": "item", "count": 1, "p50": 1, "p95": 1, "p99": 1}]


async def test_csv_is_for_spreadsheets_and_runs_nothing_there(domain: Domain) -> None:
    agent = await domain.agent(metadata={"team": "=cmd()"})
    await agent.chat()
    rows = list(csv.DictReader(io.StringIO(await ask(domain, "/v1/spend", group_by="team", format="csv"))))
    assert [row["team"] for row in rows] == ["'=cmd()"]
    assert round(float(rows[0]["cost"]) * 1_000_000) == (await journalled(domain, agent.task))["cost"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"group_by": "a b"}, "no dimension"),
        ({"group_by": "workflow,"}, "no dimension"),
        ({"from": "yesterday"}, "YYYY-MM-DD"),
        ({"from": "2026-11-26", "to": "2026-11-25"}, "no period"),
        ({"from": "2020-01-01", "to": "2026-11-25"}, "at most 366 days"),
        ({"format": "xml"}, "json or csv"),
        ({"since": "x"}, "unknown query parameter"),
    ],
)
async def test_what_is_asked_wrongly_is_told(domain: Domain, query: dict[str, str], says: str) -> None:
    problem = await ask(domain, "/v1/spend", **query)
    assert problem["code"] == "invalid_request"
    assert says in problem["detail"]


async def test_reports_are_for_operators(domain: Domain) -> None:
    agent = await domain.agent()
    for path in ("/v1/spend", "/v1/latency"):
        assert (await ask(domain, path, agent.token))["code"] == "denied"


def test_a_report_without_days_is_about_today() -> None:
    assert asked("", "", "", TODAY).first == asked("", "", "", TODAY).last == TODAY
    assert asked("", "", "2026-11-20", TODAY).first == date(2026, 11, 20)
    assert asked("a,b,a", "2026-11-01", "", TODAY).group_by == ("a", "b")
    with pytest.raises(Problem):
        asked("", "2026-11-27", "", TODAY)


# ── rows ──


def test_durations_are_at_most_nine_percent_too_high() -> None:
    for ms in (1, 2, 3, 17, 250, 999, 30_000, 900_000):
        row = Row()
        row.ended[bucket(ms)] = 1
        assert ms - 1 <= row.quantile(0.5) <= ms * 1.091 + 1


def test_percentiles_are_those_of_the_calls() -> None:
    row = Row()
    for ms in range(1, 1001):
        row.ended[bucket(ms)] += 1
    assert [row.quantile(part) for part in (0.5, 0.95, 0.99)] == pytest.approx([500, 950, 990], rel=0.1)
    assert Row().quantile(0.5) == 0


def record(random: Random, **more: Any) -> dict[str, Any]:
    use = {"calls": 1, "cost": random.randint(0, 10**6), "tokens": random.randint(0, 9000)}
    at = 1_790_000_000_000 + random.randint(0, 2) * 86_400_000
    labels = json.dumps({"team": random.choice("abc"), "n": random.randint(0, 1)})
    return {
        "kind": random.choice(("inference", "action")), "state": "settled", "status": "succeeded", "at": at,
        "ended": at + random.randint(0, 5000), "host": random.choice(("aws", "azure")), "name": "plan",
        "target": "openai/gpt", "labels": labels, "use": use, **more,
    }  # fmt: skip


def test_a_credit_moves_what_the_sweep_charged_to_where_it_belongs() -> None:
    swept = record(Random(1), state="expired", status="unknown", use={"cost": 500, "calls": 1}, labels="", target="")
    credit = record(Random(1), state="credit", use={"cost": -400, "calls": 0})
    task = {"workflow": "w", "metadata": "{}"}
    (table,) = by_day(task, {"rec:k": swept, "credit:k": credit}, ["rec:k", "credit:k"]).values()
    seen = {dimensions.target: (row.calls, row.failed, row.use["cost"]) for dimensions, row in table.items()}
    assert seen == {"": (0, 0, 0), "openai/gpt": (1, 0, 100)}


def test_rows_come_back_as_they_were_put() -> None:
    random = Random(2)
    records = {f"rec:{n}": record(random) for n in range(50)}
    tables = by_day({"workflow": "w", "metadata": '{"team": "z", "a": true}'}, records, records).values()
    assert sum(map(len, tables)) > 1
    for table in tables:
        assert from_values(to_values(table)) == table
        assert all(dimensions.value("a") == "true" for dimensions in table)


# ── folding, under everything that can fail ──


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.verify) for n in range(4, 30))])
async def test_every_record_counts_once_whatever_crashes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "COMPACT", 3)
    monkeypatch.setattr(rollups, "ROWS", 7)
    random = Random(seed)
    store = MemoryState(transactional=seed % 2 == 0, random=random)
    world = rollups.Rollups(store)
    wanted: Counter[str] = Counter()
    for number in range(12):
        task = f"t{number}"
        head: dict[str, Any] = {"status": "open", "open": {}, "n": 0}
        await store.apply(task, [Put("task", {"workflow": random.choice("vw"), "metadata": "{}"})])
        await store.apply(task, [Put("head", head, index={rollups.TAIL: rollups.tail(task, "2026-09-21")})])
        records: dict[str, Any] = {}
        seals: list[Any] = []
        for _ in range(random.randint(1, 4)):
            fresh = {f"rec:{len(records) + n}": record(random) for n in range(random.randint(1, 12))}
            records |= fresh
            seals.append({"keys": list(fresh)})
            for each in fresh.values():
                wanted.update(each["use"])
            over = {**head, "status": "completed"} if random.random() < 0.5 else head
            for _ in range(random.randint(1, 3)):  # a host that dies, and another that does it again
                store.trouble = 0.2
                store.crash_after(random.randint(0, 12))
                with contextlib.suppress(Unavailable, OutcomeUnknown, Crash):
                    await Folding(world).sealed(task, over, Read(records=records, seals=seals))
            store.trouble, store._crash_in = 0.0, None
            for n, seal in enumerate(seals):
                await world.fold(task, n, records, seal["keys"])
        assert await summed(world) == wanted


async def summed(world: rollups.Rollups) -> Counter[str]:
    found: Counter[str] = Counter()
    for _ in range(2):  # the first reader compacts, the second reads what came of it
        found = Counter()
        for day in ("2026-09-21", "2026-09-22", "2026-09-23", "2026-09-24"):
            for row in (await world.day(day)).table.values():
                found.update(row.use)
    return found


async def test_a_day_is_compacted_and_a_late_repetition_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "COMPACT", 10)
    store = MemoryState()
    world = rollups.Rollups(store)
    tasks = {f"t{n}": {"rec:1": record(Random(n), at=1_790_000_000_000)} for n in range(200)}
    wanted: Counter[str] = Counter()
    for task, records in tasks.items():
        await store.apply(task, [Put("task", {"workflow": "w", "metadata": "{}"})])
        await world.fold(task, 0, records, records)
        wanted.update(records["rec:1"]["use"])
    assert await summed(world) == wanted
    left = [key for partition, items in store.dump().items() if partition.startswith("report:") for key in items]
    assert len(left) < 60
    for task, records in tasks.items():
        await world.fold(task, 0, records, records)
    assert await summed(world) == wanted


# ── the command line ──


async def test_the_command_line_shows_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    text = (
        "version: 1\nprices: {sim/planner-1: {input: 1, output: 1}}\n"
        "providers: {sim: {api: openai, base_url: http://127.0.0.1:9/v1, auth: none}}\n"
        "workflows: {work: {models: [sim/planner-1], budget: {cost: 0.5}}}\n"
    )
    (tmp_path / "buspass.yaml").write_text(text)
    config = str(tmp_path / "buspass.yaml")
    with up("--config", config, data=tmp_path / "data", until="buspass listening") as gateway:
        for name, value in gateway.environ.items():
            monkeypatch.setenv(name, value)
        assert cli.main(["spend", "--by", "workflow"]) == 0
        assert "no calls" in capsys.readouterr().out
        assert cli.main(["latency", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["data"] == []
        assert cli.main(["spend", "--csv"]) == 0
        assert capsys.readouterr().out.strip() == "workflow"
        assert cli.main(["spend", "--from", "today"]) == 2
        assert cli.main(["spend", "--by", "a b"]) == 1
