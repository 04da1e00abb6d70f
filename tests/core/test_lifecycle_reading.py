"""Looking at tasks: lists, journal, actions, thoughts, checkpoint, and the proof that a journal is whole."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from buspass.journal import seals
from buspass.ports.state import Delete, Put
from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain


def code(response: httpx.Response) -> str:
    return str(response.json()["code"])


async def workload(domain: Domain, name: str = "me") -> dict[str, str]:
    return {"authorization": f"Bearer {await domain.apps['onprem'].mint_workload(name)}"}


def operator(domain: Domain) -> dict[str, str]:
    return {"authorization": f"Bearer {domain.apps['onprem'].house.operator_key}"}


async def listed(agent: Agent, headers: dict[str, str], query: str = "") -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    cursor = ""
    while True:
        part = f"{query}&cursor={cursor}" if cursor else query
        page = (await agent.client.get(f"/v1/tasks?{part}", headers=headers)).json()
        found += [row["id"] for row in page["data"]]
        if page["next_cursor"] is None:
            return found
        cursor = page["next_cursor"]


# ── lists ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_shows_each_caller_what_it_may_see_newest_first(domain: Domain) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    mine: list[Agent] = []
    for _ in range(3):
        mine.append(await domain.agent())
        clock.advance(0.5)
    other = await domain.agent(agent="other")
    newest_first = [agent.task for agent in reversed(mine)]
    assert await listed(mine[0], await workload(domain)) == newest_first
    assert await listed(mine[0], await workload(domain, "other")) == [other.task]
    assert await listed(mine[0], await workload(domain, "third")) == []
    assert await listed(mine[0], operator(domain)) == [other.task, *newest_first]
    assert await listed(mine[0], mine[0].headers) == [mine[0].task], "a task token sees its own"


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_meet_each_task_once_over_days(domain: Domain, limit: int) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    started = []
    for _ in range(7):
        started.append((await domain.agent(workflow="free")).task)
        clock.advance(9 * 3600)
    agent = await domain.agent()
    found = await listed(agent, operator(domain), f"limit={limit}")
    assert found == [agent.task, *reversed(started)]


async def test_lists_are_filtered_by_status_and_workflow(domain: Domain) -> None:
    done, free, work = await domain.agent(), await domain.agent(workflow="free"), await domain.agent()
    await done.post("complete")
    headers = await workload(domain)
    assert await listed(work, headers, "status=completed") == [done.task]
    assert set(await listed(work, headers, "workflow=work")) == {done.task, work.task}
    assert await listed(work, headers, "workflow=free&status=open") == [free.task]
    assert await listed(work, headers, "status=killed") == []


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=-1",
        "limit=%C2%B2",
        "limit=",
        "status=weird",
        "color=red",
        "cursor=x",
        "cursor=2026-13-99/a",
        "cursor=2026-02-30/a",
        "cursor=0001-01-01/a",
        "cursor=2026-09-21/",
        "cursor=2026-09-21/%C3%A9",
        "cursor=2026-09-21/a%2Fb",
        "cursor=9999-01-01/a",
        "cursor=2026-09-21/" + "a" * 200,
    ],
)
async def test_a_list_that_asks_for_nonsense_is_refused(domain: Domain, query: str) -> None:
    agent = await domain.agent()
    answer = await agent.client.get(f"/v1/tasks?{query}", headers=await workload(domain))
    assert (answer.status_code, code(answer)) == (400, "invalid_request"), answer.text


async def test_a_list_looks_at_so_many_tasks_and_then_says_where_to_go_on(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buspass.reading.LOOKED", 3)
    mine = await domain.agent()
    for _ in range(4):
        await domain.agent(agent="other")
    headers = await workload(domain)
    page = (await mine.client.get("/v1/tasks?limit=1", headers=headers)).json()
    assert page["data"] == []
    assert page["next_cursor"]
    assert await listed(mine, headers, "limit=1") == [mine.task]


async def test_a_hint_whose_task_was_never_born_is_passed_over(domain: Domain) -> None:

    agent = await domain.agent()
    await domain.state.apply("tasks:2026-09-21", [Put("000000000000.t_never", {"task": "t_never"})])
    assert await listed(agent, operator(domain)) == [agent.task]


async def test_a_task_whose_facts_were_altered_is_not_shown_and_the_others_are_listed(domain: Domain) -> None:
    honest, altered = await domain.agent(), await domain.agent()
    facts = domain.state.inner._items[altered.task]["task"]  # type: ignore[attr-defined]  # a thief with the database
    facts["models"] = ["plan", "other"]
    domain.clock.advance(61)  # by then every host has read it anew
    assert await listed(honest, operator(domain)) == [honest.task]
    answer = await altered.get("")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


# ── the journal ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_trace_tells_in_order_what_happened_what_it_cost_and_what_was_left(domain: Domain) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    agent = await domain.agent()
    clock.advance(1)
    await agent.chat("think of item 1")
    clock.advance(1)
    await agent.call("item", {"id": "1"})
    clock.advance(1)
    await agent.call("pay", {"order": "1", "amount": 1})
    clock.advance(1)
    await agent.post("thoughts", text="never mind")
    clock.advance(1)
    await agent.post("complete", reason="done")
    trace = (await agent.get("/trace")).json()
    assert trace["task"]["status"] == "completed"
    rows = trace["records"]
    kinds = ["lifecycle", "inference", "action", "refusal", "thought", "lifecycle"]
    assert [row["kind"] for row in rows] == kinds
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert rows[1]["thought"] == "think of item 1"
    assert rows[2]["result"] == {"id": "1", "owner": "C-1"}
    assert rows[3]["code"] == "prerequisite_missing"
    assert rows[4]["thought"] == "never mind"
    assert rows[5]["reason"] == "done"
    assert {row["host"] for row in rows} == {"onprem"}
    left = 1.0
    for row in rows:
        left -= row["cost"]
        assert row["left"]["cost"] == pytest.approx(left)
    assert trace["task"]["budget"]["available"]["cost"] == pytest.approx(left)


async def test_the_verdict_counts_and_finds_what_was_altered(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.chat()
    verdict = (await agent.get("/trace/verify")).json()
    assert verdict == {"ok": True, "records": 2, "sealed": 0, "seals": 0, "problems": []}
    partition = domain.state.inner._items[agent.task]  # type: ignore[attr-defined]  # a thief with the database
    record = next(item for key, item in partition.items() if key.startswith("rec:i"))
    record["use"]["cost"] = 0
    verdict = (await agent.get("/trace/verify")).json()
    assert not verdict["ok"]
    assert any("MAC" in problem for problem in verdict["problems"])
    assert any(problem.startswith("cost:") for problem in verdict["problems"])


async def test_the_verdict_finds_another_grant_too(domain: Domain) -> None:
    agent = await domain.agent()
    facts = domain.state.inner._items[agent.task]["task"]  # type: ignore[attr-defined]  # a thief with the database
    facts["models"] = ["plan", "other"]
    verdict = (await agent.get("/trace/verify")).json()
    assert (verdict["ok"], len(verdict["problems"])) == (False, 1)
    assert verdict["problems"][0].startswith("task: its facts were altered")


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_a_trace_comes_in_pages_and_what_was_left_goes_on_from_one_to_the_next(
    domain: Domain, limit: int
) -> None:
    agent = await domain.agent()
    for n in range(3):
        await agent.chat(f"thought {n}")
        await agent.call("item", {"id": "1"})  # in the same millisecond
    whole = (await agent.get("/trace")).json()
    assert whole["next_cursor"] is None
    rows: list[Any] = []
    query = f"?limit={limit}"
    while query:
        page = (await agent.get(f"/trace{query}")).json()
        assert len(page["records"]) <= limit
        rows += page["records"]
        query = f"?limit={limit}&cursor={page['next_cursor']}" if page["next_cursor"] else ""
    assert rows == whole["records"]
    assert len(rows) == 7
    assert sum("thought" in row for row in rows) == 3


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=", "limit=x", "limit=-1", "color=red", "cursor=x", "cursor=1.head", "cursor=1"],
)
async def test_a_page_of_a_trace_that_makes_no_sense_is_refused(domain: Domain, query: str) -> None:
    answer = await (await domain.agent()).get(f"/trace?{query}")
    assert (answer.status_code, code(answer)) == (400, "invalid_request"), answer.text


@pytest.mark.parametrize(("disturbed", "status"), [(0, 200), (3, 200), (1000, 409)])
async def test_an_audit_of_a_task_at_work_raises_no_false_alarm(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, disturbed: int, status: int
) -> None:
    agent = await domain.agent()
    await agent.chat()
    read_all = seals.read_all
    left = disturbed

    async def busy(state: Any, task: str) -> Any:
        nonlocal left
        journal = await read_all(state, task)
        if left:
            left -= 1
            await agent.call("item", {"id": "1"})
        return journal

    monkeypatch.setattr(seals, "read_all", busy)
    answer = await agent.get("/trace/verify")
    assert answer.status_code == status, answer.text
    assert answer.json()["ok"] if status == 200 else code(answer) == "conflict"


async def test_a_payload_that_is_gone_leaves_the_journal_readable(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.chat("secret thought")
    for name in await domain.blobs.list(f"{agent.task}/payload/", "", 10):
        await domain.blobs.delete(name)
    rows = (await agent.get("/trace")).json()["records"]
    assert "thought" not in rows[1]
    assert (await agent.get("/trace/verify")).json()["ok"]


async def test_an_erased_key_erases_every_payload_and_the_journal_still_verifies(domain: Domain) -> None:

    agent = await domain.agent()
    await agent.chat("secret thought")
    checkpoint = f"/v1/tasks/{agent.task}/checkpoint"
    assert (await agent.client.put(checkpoint, json=1, headers=agent.headers)).status_code == 200
    await domain.state.apply(agent.task, [Delete("key", ())])
    there = await domain.at("aws", agent)
    trace = (await there.get("/trace")).json()
    assert trace["records"][1]["erased"]
    assert (await there.get("/trace/verify")).json()["ok"]
    assert code(await there.get("/checkpoint")) == "not_found"
    assert code(await there.client.put(checkpoint, json=1, headers=agent.headers)) == "not_found"
    assert (await there.post("thoughts", text="after")).status_code == 201
    assert (await there.chat(headers={"idempotency-key": "k"})).status_code == 200, "it works on, keeping nothing"
    assert (await there.get("/trace/verify")).json()["ok"]


# ── thoughts ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_thought_is_noted_under_its_parent(domain: Domain) -> None:
    agent = await domain.agent()
    first = await agent.post("thoughts", text="one")
    assert first.status_code == 201
    second = await agent.post("thoughts", text="two", parent=first.json()["id"])
    rows = [row for row in (await agent.get("/trace")).json()["records"] if row["kind"] == "thought"]
    told = {row["id"]: (row["thought"], row.get("cause")) for row in rows}
    assert told == {first.json()["id"]: ("one", None), second.json()["id"]: ("two", first.json()["id"])}
    assert set((await agent.get()).json()["budget"]["spent"].values()) == {0}


async def test_parallel_thoughts_are_all_taken(domain: Domain) -> None:
    agent = await domain.agent()
    there = await domain.at("aws", agent)
    for _ in range(4):
        answers = await asyncio.gather(*((agent, there)[n % 2].post("thoughts", text="x") for n in range(24)))
        assert {answer.status_code for answer in answers} == {201}
    assert (await agent.get("/trace/verify")).json()["records"] == 97


async def test_thoughts_are_sealed_as_calls_are_and_a_task_takes_no_more_than_a_thousand(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("buspass.reading.SEAL_EVERY", 4)
    agent = await domain.agent()
    for _ in range(3):
        await agent.post("thoughts", text="x")
    verdict = (await agent.get("/trace/verify")).json()
    assert (verdict["ok"], verdict["sealed"]) == (True, 4)
    domain.state.inner._items[agent.task]["head"]["thoughts"] = 0  # type: ignore[attr-defined]  # as after a thousand
    refused = await agent.post("thoughts", text="x")
    assert (refused.status_code, code(refused)) == (403, "call_limit")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": 7},
        {"text": "x", "parent": 7},
        {"text": "x", "more": 1},
        {"text": "x" * 20_001},
        {"text": "x", "parent": "p" * 129},
    ],
)
async def test_a_bad_thought_is_refused(domain: Domain, body: dict[str, Any]) -> None:
    agent = await domain.agent()
    assert code(await agent.post("thoughts", **body)) == "invalid_request"


async def test_thoughts_are_kept_as_the_workflow_logs(domain: Domain) -> None:
    agent = await domain.agent(workflow="many")
    await agent.post("thoughts", text="secret")
    (row,) = (row for row in (await agent.get("/trace")).json()["records"] if row["kind"] == "thought")
    assert "thought" not in row
    assert row["digests"]["payload"]
    assert not await domain.blobs.list(f"{agent.task}/payload/", "", 10)


# ── actions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_actions_are_listed_in_flight_and_finished_and_filtered(domain: Domain, service: Any) -> None:
    opened, came = asyncio.Event(), asyncio.Event()

    async def slow(body: Any) -> None:
        came.set()
        await opened.wait()

    agent = await domain.agent()
    done = (await agent.call("item", {"id": "1"})).json()["action"]
    service.hooks["/checks"] = slow
    call = asyncio.create_task(agent.call("check", {"order": "1"}))
    await came.wait()

    async def rows(query: str = "") -> list[dict[str, Any]]:
        answer = await agent.client.get(f"/v1/actions{query}", headers=agent.headers)
        return list(answer.json()["data"])

    assert {row["tool"]: row["status"] for row in await rows()} == {"item": "succeeded", "check": "dispatching"}
    assert [row["tool"] for row in await rows("?status=dispatching")] == ["check"]
    assert await rows("?status=failed") == []
    opened.set()
    running = (await call).json()["action"]
    assert {row["id"]: row["status"] for row in await rows()} == {done: "succeeded", running: "succeeded"}
    one = (await agent.client.get(f"/v1/actions/{done}", headers=agent.headers)).json()
    assert (one["task"], one["tool"], one["cause"], one["code"]) == (agent.task, "item", None, None)
    neighbour = await domain.agent()
    missing = await neighbour.client.get(f"/v1/actions/{done}", headers=neighbour.headers)
    assert (missing.status_code, code(missing)) == (404, "not_found")


@pytest.mark.parametrize(
    ("query", "told"), [("status=unknwon", "failed, unknown, void"), ("state=unknown", "'state'; allowed: status")]
)
async def test_a_misspelt_filter_does_not_look_as_if_nothing_was_sent(domain: Domain, query: str, told: str) -> None:
    agent = await domain.agent()
    answer = await agent.client.get(f"/v1/actions?{query}", headers=agent.headers)
    assert (answer.status_code, code(answer)) == (400, "invalid_request")
    assert told in answer.json()["detail"]


# ── checkpoint ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def put(agent: Agent, content: bytes = b'{"at": 1}', **headers: str) -> httpx.Response:
    path = f"/v1/tasks/{agent.task}/checkpoint"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await agent.client.put(path, content=content, headers={**agent.headers, **named})


async def test_a_checkpoint_is_kept_as_it_came_and_replaced_on_condition(domain: Domain) -> None:
    agent = await domain.agent()
    assert code(await agent.get("/checkpoint")) == "not_found"
    assert code(await put(agent, if_match='"x"')) == "precondition_failed"
    first = await put(agent, b'{"a":  [1, 2.50]}', if_none_match="*")
    assert first.status_code == 200
    read = await (await domain.at("aws", agent)).get("/checkpoint")
    assert read.content == b'{"a":  [1, 2.50]}'
    assert read.headers["etag"] == first.headers["etag"] == f'"{first.json()["etag"]}"'
    assert read.headers["cache-control"] == "no-store"
    again = await put(agent, if_none_match="*")
    assert (again.status_code, code(again)) == (412, "precondition_failed")
    second = await put(agent, b"2", if_match=first.headers["etag"])
    assert second.status_code == 200
    assert code(await put(agent, b"3", if_match=first.headers["etag"])) == "precondition_failed"
    assert (await put(agent, b"4")).status_code == 200
    assert (await put(agent, b"5", if_match="*")).status_code == 200
    assert (await agent.get("/checkpoint")).content == b"5"
    assert len(await domain.blobs.list(f"{agent.task}/checkpoint/", "", 10)) == 1, "replaced and refused ones are gone"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('"other", "{}"', None),
        (' "{}" ,, "other",', None),
        ('W/"other", "{}"', None),
        ('"with,comma", "{}"', None),
        ('W/"{}"', "precondition_failed"),
        ('"other"', "precondition_failed"),
        ('"other,{}"', "precondition_failed"),
        ("{}", "invalid_request"),
        ('"{}', "invalid_request"),
        ('*, "{}"', "invalid_request"),
    ],
)
async def test_if_match_is_a_list_of_strong_etags(domain: Domain, given: str, problem: str | None) -> None:
    agent = await domain.agent()
    etag = (await put(agent)).json()["etag"]
    answer = await put(agent, b"2", if_match=given.replace("{}", etag))
    assert answer.json().get("code") == problem, answer.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{}" + b" " * (256 * 1024 - 2), None),
        (b"{}" + b" " * (256 * 1024 - 1), "request_too_large"),
        (b"", "invalid_request"),
        (b"{", "invalid_request"),
        (b"\xff", "invalid_request"),
        (b"NaN", "invalid_request"),
        (b"null", None),
    ],
)
async def test_a_checkpoint_is_json_of_at_most_256_kilobytes(
    domain: Domain, content: bytes, problem: str | None
) -> None:
    agent = await domain.agent()
    answer = await put(agent, content)
    assert (answer.json().get("code")) == problem, answer.text
    assert answer.status_code == {None: 200, "request_too_large": 413}.get(problem, 400)


async def test_a_parked_worker_may_still_say_where_it_was_and_a_completed_one_not(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.post("suspend")
    assert (await put(agent)).status_code == 200
    await agent.post("complete")
    assert code(await put(agent)) == "task_not_open"


async def test_the_next_worker_finds_the_checkpoint_and_the_old_one_saves_no_more(domain: Domain) -> None:
    agent = await domain.agent()
    await put(agent, b'"here"')
    answer = await agent.client.post(f"/v1/tasks/{agent.task}/resume", headers=await workload(domain))
    new = Agent(client=agent.client, task=agent.task, token=answer.json()["token"], document={})
    assert (await new.get("/checkpoint")).content == b'"here"'
    assert code(await put(agent)) == "fenced"
    assert (await put(new, b'"there"')).status_code == 200


async def test_a_checkpoint_replaced_while_it_is_read_is_read_anew(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await domain.agent()
    await put(agent, b"1")
    vault = domain.apps["onprem"].house.vault
    get = vault.get

    async def replaced(key: bytes, name: str) -> bytes | None:
        monkeypatch.setattr(vault, "get", get)
        await put(agent, b"2")
        return await get(key, name)

    monkeypatch.setattr(vault, "get", replaced)
    assert (await agent.get("/checkpoint")).content == b"2"


async def test_if_match_star_replaces_what_is_there_and_makes_nothing_new(domain: Domain) -> None:
    agent = await domain.agent()
    path, headers = f"/v1/tasks/{agent.task}/checkpoint", {**agent.headers, "if-match": "*"}
    refused = await agent.client.put(path, json={"at": 1}, headers=headers)
    assert (refused.status_code, code(refused)) == (412, "precondition_failed")
    assert (await agent.get("/checkpoint")).status_code == 404
    assert (await agent.client.put(path, json={"at": 1}, headers=agent.headers)).status_code == 200
    assert (await agent.client.put(path, json={"at": 2}, headers=headers)).status_code == 200
    assert (await agent.get("/checkpoint")).json() == {"at": 2}


async def test_what_began_in_one_millisecond_stands_in_the_order_of_cause(domain: Domain) -> None:
    agent = await domain.agent()
    calls = []
    for number in range(12):
        await agent.call("item", {"id": str(number)})
        calls.append((await agent.chat()).headers["buspass-call"])
    await agent.chat(model="nothing")
    rows = (await agent.get("/trace")).json()["records"]
    assert len({row["at"] for row in rows}) == 1
    assert [row["kind"] for row in rows] == ["lifecycle", *["inference"] * 12, *["action"] * 12, "refusal"]
    assert [row["id"] for row in rows[1:13]] == calls, "calls of one name in the order of their holds"
    page = (await agent.get("/trace?limit=5")).json()
    rest = (await agent.get(f"/trace?cursor={page['next_cursor']}")).json()
    assert page["records"] + rest["records"] == rows
    at = page["next_cursor"].partition(".")[0]
    assert (await agent.get(f"/trace?cursor={at}.rec:zzz")).json()["records"] == [], "behind all of its millisecond"
