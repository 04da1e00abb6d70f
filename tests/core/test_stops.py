"""Stops: what an operator orders to stand still does so at every host, and goes on when he says so, and not before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from buspass.errors import Problem
from buspass.ports.state import Equals, Put
from buspass.stops import Stop, Stops, stop_id
from buspass.testing.clock import FakeClock
from buspass.testing.family import Family
from buspass.testing.house import Agent, Domain
from buspass.testing.state_counting import Count
from buspass.testing.state_memory import Lost, MemoryState
from buspass.timer import tick

FAMILY = Path(__file__).parents[1] / "data" / "children" / "buspass.yaml"
KEYS = Path(__file__).parents[1] / "data" / "keys" / "buspass.yaml"
WHY = "refunds look wrong"


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document).get("code", response.status_code))


def clock_of(domain: Domain) -> FakeClock:
    assert isinstance(domain.clock, FakeClock)
    return domain.clock


async def operate(domain: Domain, method: str, path: str, body: Any = None, host: str = "onprem") -> httpx.Response:
    client = await domain.host(host)
    key = domain.apps[host].house.operator_key
    return await client.request(method, path, json=body, headers={"authorization": f"Bearer {key}"})


async def stop(domain: Domain, host: str = "onprem", **what: Any) -> Any:
    answer = await operate(domain, "POST", "/v1/stops", {"reason": WHY, **what}, host)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def lift(domain: Domain, stop: str, host: str = "onprem") -> Any:
    answer = await operate(domain, "DELETE", f"/v1/stops/{stop}?reason=mended", None, host)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def started(domain: Domain, workflow: str, host: str = "onprem", agent: str = "me") -> httpx.Response:
    client = await domain.host(host)
    token = await domain.apps[host].mint_workload(agent)
    headers = {"authorization": f"Bearer {token}"}
    return await client.post("/v1/tasks", json={"workflow": workflow}, headers=headers)


async def status(domain: Domain, agent: Agent) -> str:
    return str((await operate(domain, "GET", f"/v1/tasks/{agent.task}")).json()["status"])


async def kinds(agent: Agent) -> list[str]:
    return [row["kind"] for row in (await agent.get("/trace")).json()["records"]]


# ── what is stopped, and what goes on ───────────────────────────────────────────────────────────────────────────────


async def test_a_workflow_is_stopped_at_every_host_and_no_other(domain: Domain) -> None:
    mine = [await domain.agent() for _ in range(5)]
    other = await domain.agent(workflow="many")
    away = await domain.at("aws", mine[0])
    await away.chat()
    found = await stop(domain, workflow="work")
    assert found.items() >= {"workflow": "work", "tasks": 5, "in_flight": 0, "complete": True, "unreached": []}.items()
    assert [await status(domain, each) for each in mine] == ["killed"] * 5
    for answer in (await mine[1].chat(), await away.chat(), await mine[2].call("item", {"id": "1"})):
        assert (code(answer), answer.status_code) == ("stopped", 403)
        assert WHY in answer.text
        assert answer.headers["x-should-retry"] == "false"
    for host in ("onprem", "aws"):
        assert code(await started(domain, "work", host)) == "stopped"
    assert (await other.chat()).status_code == 200
    assert (await started(domain, "many")).status_code == 201


@pytest.mark.parametrize("name", ["me", "local:me"])
async def test_an_agent_is_stopped_by_its_name_and_another_is_not(domain: Domain, name: str) -> None:
    mine, other = await domain.agent(), await domain.agent(agent="other")
    found = await stop(domain, agent=name)
    assert (found["agent"], found["tasks"]) == (name, 1)
    assert code(await mine.chat()) == "stopped"
    assert code(await started(domain, "work")) == "stopped"
    assert (await other.chat()).status_code == 200


async def test_a_stopped_agent_takes_over_nothing(domain: Domain) -> None:
    mine = await domain.agent()
    await stop(domain, agent="other")
    token = await domain.apps["onprem"].mint_workload("other")
    headers = {"authorization": f"Bearer {token}"}
    refused = await mine.client.post(f"/v1/tasks/{mine.task}/resume", json={}, headers=headers)
    assert code(refused) == "stopped"
    assert (await mine.chat()).status_code == 200


async def test_a_tool_is_stopped_and_its_tasks_go_on_without_it(domain: Domain, service: Any) -> None:
    mine = await domain.agent()
    found = await stop(domain, tool="item")
    assert (found["tasks"], found["complete"]) == (0, True)
    assert code(await mine.call("item", {"id": "1"})) == "stopped"
    assert service.requests == []
    assert "action" not in await kinds(mine), "it was refused before anything was held"
    assert (await mine.call("check", {"order": "1"})).status_code == 200
    assert (await mine.chat()).status_code == 200


async def test_an_alias_is_stopped_and_others_are_not(domain: Domain) -> None:
    mine = await domain.agent()
    await stop(domain, model="plan")
    assert code(await mine.chat()) == "stopped"
    assert "inference" not in await kinds(mine), "it was refused before anything was held"
    assert (await mine.chat(model="backed")).status_code == 200


async def test_a_target_that_is_stopped_is_passed_over_and_when_none_is_left_that_is_why(
    domain: Domain, upstream: Any
) -> None:
    mine = await domain.agent()
    await stop(domain, model="second/planner-1")
    answer = await mine.chat(model="backed")
    assert (answer.status_code, answer.headers["buspass-target"]) == (200, "first/planner-1")
    assert upstream.requests == []
    await stop(domain, model="first/planner-1")
    assert code(await mine.chat(model="backed")) == "stopped"


async def test_everything_is_stopped(domain: Domain) -> None:
    agents = [await domain.agent(workflow=name, agent=name) for name in ("work", "many", "free")]
    await agents[0].post("suspend")
    assert (await stop(domain, all=True))["tasks"] == 3
    assert {await status(domain, each) for each in agents} == {"killed"}
    for workflow in ("work", "many", "free"):
        assert code(await started(domain, workflow, "aws", "new")) == "stopped"


async def test_what_is_only_observed_is_stopped_all_the_same(tmp_path: Path, service: Any, upstream: Any) -> None:
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app}
    config = Path(__file__).parents[1] / "data" / "domain" / "observed.yaml"
    async with Domain(config, tmp_path, services) as domain:
        await domain.host()
        workflow = next(name for name, each in domain.apps["onprem"].house.settings.workflows.items() if each.observe)
        agent = await domain.agent(workflow=workflow)
        await stop(domain, model="plan")
        assert code(await agent.chat()) == "stopped"


# ── lifting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stop_stands_until_it_is_lifted_and_killed_tasks_stay_killed(domain: Domain) -> None:
    mine = await domain.agent()
    found = await stop(domain, workflow="work")
    clock_of(domain).advance(86_400)
    assert code(await started(domain, "work", "aws")) == "stopped"
    (row,) = (await operate(domain, "GET", "/v1/stops")).json()["data"]
    assert (
        row.items() >= {"id": found["id"], "reason": WHY, "by": "operator.key", "tasks": 1, "lifted_at": None}.items()
    )
    lifted = await lift(domain, found["id"])
    assert lifted.items() >= {"lifted_by": "operator.key", "lifted_reason": "mended", "workflow": "work"}.items()
    clock_of(domain).advance(1)
    assert (await started(domain, "work", "aws")).status_code == 201
    assert await status(domain, mine) == "killed"
    assert (await operate(domain, "GET", "/v1/stops")).json()["data"] == []
    assert (await operate(domain, "GET", "/v1/stops?lifted=true")).json()["data"] == [lifted]
    again = await operate(domain, "DELETE", f"/v1/stops/{found['id']}?reason=x")
    assert code(again) == "not_found"


async def test_the_same_stopped_twice_is_one_stop(domain: Domain) -> None:
    first = await stop(domain, workflow="work")
    again = await stop(domain, "aws", workflow="work", reason="another")
    assert (again["id"], again["reason"], again["at"]) == (first["id"], WHY, first["at"])
    await lift(domain, first["id"])
    assert (await stop(domain, workflow="work", reason="once more"))["reason"] == "once more"
    assert len((await operate(domain, "GET", "/v1/stops?lifted=true")).json()["data"]) == 1


# ── what it costs, and how soon it is known ─────────────────────────────────────────────────────────────────────────


async def test_stops_are_read_once_a_second_and_no_more(domain: Domain) -> None:
    mine = await domain.agent()
    await mine.chat()
    domain.state.count.reset()
    await asyncio.gather(*(mine.chat() for _ in range(5)))
    assert domain.state.count == Count(applies=10, writes=15)
    clock_of(domain).advance(1.0)
    domain.state.count.reset()
    await asyncio.gather(*(mine.chat() for _ in range(5)))
    assert domain.state.count == Count(lists=1, reads=1, applies=10, writes=15), "the stops, and the target's breaker"


async def test_calls_at_once_share_a_read_that_takes_longer_than_it_counts() -> None:
    """Each read on its own, one after the other, they would wait until none may be sent any more."""
    clock, reads = FakeClock(), 0

    class Slow(MemoryState):
        async def list(self, *parts: Any) -> Any:
            nonlocal reads
            reads += 1
            await asyncio.sleep(0)
            found = await super().list(*parts)
            clock.advance(1.5)
            return found

    stops = Stops(Slow(), clock, lambda _, __, item: item, lambda *_: True)
    first = asyncio.create_task(stops.look())
    await asyncio.sleep(0)
    clock.advance(0.1)
    await asyncio.gather(first, *(stops.look() for _ in range(30)))
    assert reads == 2, "the one that was under way, and one for all who came after it began"
    await stops.look()
    assert reads == 3


async def test_what_hosts_end_for_a_stop_adds_up_whoever_comes_first_and_whatever_answer_is_lost() -> None:
    state, clock = MemoryState(), FakeClock()
    marks = itertools.count()
    hosts = [Stops(state, clock, lambda _, __, item: {**item, "mac": f"m{next(marks)}"}, lambda *_: True) for _ in "ab"]
    order = stop_id("all", "")
    await hosts[0].put(Stop(id=order, kind="all", name="", reason=WHY, by="me", at=clock.now(), host="a"))
    await asyncio.gather(*(host.progress(order, tasks=each, done=0) for host, each in zip(hosts, (2, 3), strict=True)))
    assert [each.tasks for each in await hosts[0].now()] == [5]
    state.meet(Lost())
    await hosts[1].progress(order, tasks=4, done=7)
    assert [(each.tasks, each.done) for each in await hosts[0].now()] == [(9, 7)]


async def test_another_host_knows_within_a_second(domain: Domain) -> None:
    mine = await domain.agent()
    there = await domain.at("aws", mine)
    await there.chat()
    house = domain.apps["onprem"].house
    await stop(domain, tool="item")
    await lift(domain, stop_id("tool", "item"))
    await there.chat()
    clock_of(domain).advance(0.9)
    await stop_now(domain, "tool", "item")
    assert (await there.call("item", {"id": "1"})).status_code == 200, "its view is not a second old"
    clock_of(domain).advance(0.2)
    assert code(await there.call("item", {"id": "1"})) == "stopped"
    assert house.stops.against("work", (), tool="item") is not None


async def stop_now(domain: Domain, kind: Any, name: str) -> None:
    """The order alone, without what follows it."""
    house = domain.apps["onprem"].house
    now = domain.clock.now()
    await house.stops.put(
        Stop(id=stop_id(kind, name), kind=kind, name=name, reason=WHY, by="me", at=now, host="onprem")
    )


async def test_without_the_store_nothing_begins_and_nothing_is_sent(domain: Domain) -> None:
    mine = await domain.agent()
    await mine.chat()
    clock_of(domain).advance(1.0)
    sent = len(domain.outbound.requests)
    domain.state.inner.down = True  # type: ignore[attr-defined]
    assert code(await mine.chat()) == "state_unavailable"
    assert code(await started(domain, "work")) == "state_unavailable"
    assert code(await operate(domain, "POST", "/v1/stops", {"all": True, "reason": WHY})) == "state_unavailable"
    assert len(domain.outbound.requests) == sent


async def test_who_can_write_to_the_store_weakens_no_stop(domain: Domain) -> None:
    mine = await domain.agent(workflow="many")
    found = await stop(domain, workflow="work")
    item = dict(await domain.state.read("stops", found["id"]) or {})
    altered = {**item, "name": "nobody", "version": 9}
    await domain.state.apply("stops", [Put(found["id"], altered, (Equals(("version",), 2),))])
    clock_of(domain).advance(1.0)
    assert code(await mine.chat()) == "stopped"
    assert "was altered" in (await mine.chat()).text
    await lift(domain, found["id"])
    clock_of(domain).advance(1.0)
    assert (await mine.chat()).status_code == 200


# ── calls under way ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("what", [{"workflow": "work"}, {"model": "fed"}])
async def test_a_running_stream_is_cut_settled_and_told_why(
    streaming: Domain, listen: Callable[..., Any], feed: Any, books: Any, what: dict[str, Any]
) -> None:
    agent = await streaming.agent()
    async with listen(agent, "a long story", model="fed") as listener:
        await feed.give(2)
        assert listener.status == 200
        await listener.event()
        found = await stop(streaming, "aws", **what)
        events = await listener.rest()
        assert found["in_flight"] + found["cut"] == 1
    text = str(events[-1])
    assert "stopped" in text or "task_killed" in text, text
    assert "[DONE]" not in events
    assert await books(agent).held() == 0
    (call,) = await books(agent).calls()
    assert call["code"] in {"stopped", "task_killed"}
    assert call["use"]["cost"] > 0


async def test_what_waits_when_the_stop_comes_is_not_sent(domain: Domain, upstream: Any) -> None:
    mine = await domain.agent(workflow="many")

    async def failing(_: Any) -> Any:
        await stop_now(domain, "model", "thrice")
        return JSONResponse({"error": {"message": "busy"}}, 429)

    upstream.script.append(failing)
    answer = await mine.chat(model="thrice")
    assert code(answer) == "stopped"
    assert len(upstream.requests) == 1, "the next target was not tried"
    head = await domain.state.read(mine.task, "head")
    assert head is not None
    assert head["open"] == {}


# ── children, keys, and stores ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def family(tmp_path: Path, service: Any) -> AsyncIterator[Family]:
    family = Family.over(FAMILY, tmp_path, service)
    async with family.domain:
        yield family


async def test_all_below_a_stopped_task_is_killed_also_in_other_stores(family: Family) -> None:
    parent = await family.domain.agent()
    child = await family.child(parent)
    grandchild = await family.child(child, budget={"tokens": 10_000, "cost": 0.1, "calls": 2})
    await family.domain.host("azure")
    cousin = await family.child(parent, host="azure")
    found = await stop(family.domain, agent="local:me")
    assert found["complete"]
    assert {family.head(each.task)["status"] for each in (parent, child, grandchild, cousin)} == {"killed"}
    assert family.pool()["available"]["cost"] == 5_000_000
    await family.sound(parent.task, child.task, grandchild.task)
    family.conserved()
    assert code(await started(family.domain, "work", "azure")) == "stopped"


async def test_a_task_of_another_store_is_stopped_from_here_and_lifted_from_there(family: Family) -> None:
    there = await family.domain.agent("azure")
    assert (await stop(family.domain, workflow="work"))["tasks"] == 1
    assert family.head(there.task)["status"] == "killed"
    await lift(family.domain, stop_id("workflow", "work"), "azure")
    for host in ("onprem", "azure"):
        family.advance(1)
        assert (await started(family.domain, "work", host)).status_code == 201


async def test_a_store_out_of_reach_is_told_and_a_timer_goes_on_when_it_is_back(family: Family) -> None:
    there = await family.domain.agent("azure")
    here = await family.domain.agent()
    await stop(family.domain, tool="item")  # so that the other store was opened from here
    family.other.down = True
    found = await stop(family.domain, workflow="work")
    assert (found["tasks"], found["complete"], found["unreached"]) == (1, False, ["azure"])
    refused = await operate(family.domain, "DELETE", f"/v1/stops/{found['id']}?reason=x")
    assert code(refused) == "state_unavailable"
    family.other.down = False
    family.advance(31)
    await tick(family.domain.apps["onprem"].house)
    assert family.head(there.task)["status"] == family.head(here.task)["status"] == "killed"
    rows = (await operate(family.domain, "GET", "/v1/stops")).json()["data"]
    assert [(row["tasks"], row["complete"]) for row in rows if "workflow" in row] == [(2, True)]


async def test_a_host_that_dies_in_the_middle_leaves_the_rest_to_the_timers(domain: Domain) -> None:
    mine = [await domain.agent() for _ in range(3)]
    await domain.host("aws")
    await stop_now(domain, "workflow", "work")
    assert await status(domain, mine[0]) == "open"
    clock_of(domain).advance(10)
    await tick(domain.apps["aws"].house)
    assert await status(domain, mine[0]) == "open", "whoever ordered it may be at work yet"
    clock_of(domain).advance(31)
    await tick(domain.apps["aws"].house)
    assert [await status(domain, each) for each in mine] == ["killed"] * 3


async def test_what_began_while_the_stop_came_is_ended_where_it_began(domain: Domain) -> None:
    await domain.host()
    house = domain.apps["onprem"].house
    inner, put = house.tasks.begin, asyncio.Event()

    async def frozen(*arguments: Any) -> Any:
        begun = await inner(*arguments)
        await put.wait()
        return begun

    house.tasks.begin = frozen  # type: ignore[method-assign]
    starting = asyncio.create_task(started(domain, "work"))
    while not [name for name in domain.state.inner.dump() if name.startswith("t_")]:  # type: ignore[attr-defined]
        await asyncio.sleep(0)
    await stop_now(domain, "workflow", "work")
    clock_of(domain).advance(2)
    put.set()
    assert code(await starting) == "stopped"
    (task,) = [name for name in domain.state.inner.dump() if name.startswith("t_")]  # type: ignore[attr-defined]
    head = await domain.state.read(task, "head")
    assert head is not None
    assert head["status"] == "killed"


async def test_a_key_goes_on_by_itself_when_the_stop_is_lifted(tmp_path: Path) -> None:
    async with Domain(KEYS, tmp_path, {}) as domain:
        made = (await operate(domain, "POST", "/v1/keys", {"name": "bot", "workflow": "work"})).json()
        client = await domain.host()

        async def chat() -> httpx.Response:
            body = {"model": "plan", "messages": [{"role": "user", "content": "hello"}]}
            headers = {"authorization": f"Bearer {made['key']}"}
            return await client.post("/v1/chat/completions", json=body, headers=headers)

        assert (await chat()).status_code == 200
        assert (await stop(domain, agent="key:bot"))["tasks"] == 1
        for _ in range(3):
            assert code(await chat()) == "stopped"
        (row,) = (await operate(domain, "GET", "/v1/keys")).json()["data"]
        assert row["status"] == "active"
        await lift(domain, stop_id("agent", "key:bot"))
        assert (await chat()).status_code == 200


async def test_more_tasks_than_the_index_can_tell_are_found_all_the_same(
    domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = [await domain.agent() for _ in range(7)]
    house = domain.apps["onprem"].house

    async def nothing(_day: str) -> None:
        return None

    monkeypatch.setattr(house.rollups, "tails", nothing)
    monkeypatch.setattr("buspass.stopping.PAGE", 3)
    assert (await stop(domain, workflow="work"))["tasks"] == 7
    assert {await status(domain, each) for each in agents} == {"killed"}


# ── who may, what is kept, and what is no stop ──────────────────────────────────────────────────────────────────────


async def test_the_journal_of_an_ended_task_says_who_stopped_it_and_why(domain: Domain) -> None:
    mine = await domain.agent()
    await mine.chat()
    found = await stop(domain, workflow="work")
    records = (await operate(domain, "GET", f"/v1/tasks/{mine.task}/trace")).json()["records"]
    last = [row for row in records if row["kind"] == "lifecycle"][-1]
    said = {name: last[name] for name in ("operation", "reason", "by", "stop")}
    assert said == {"operation": "kill", "reason": WHY, "by": "operator operator.key", "stop": found["id"]}
    assert (await operate(domain, "GET", f"/v1/tasks/{mine.task}/trace/verify")).json()["ok"]


async def test_only_operators_stop_and_lift(domain: Domain) -> None:
    mine = await domain.agent()
    workload = await domain.apps["onprem"].mint_workload("me")
    found = await stop(domain, tool="item")
    for token in (mine.token, workload):
        headers = {"authorization": f"Bearer {token}"}
        for method, path in (("POST", "/v1/stops"), ("GET", "/v1/stops"), ("DELETE", f"/v1/stops/{found['id']}")):
            body = {"all": True, "reason": WHY} if method == "POST" else None
            answer = await mine.client.request(method, path, json=body, headers=headers)
            assert (code(answer), answer.status_code) == ("denied", 403)
    assert (await mine.chat()).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"reason": WHY}, "say what to stop"),
        ({"workflow": "work", "tool": "item", "reason": WHY}, "say what to stop"),
        ({"workflow": "wrok", "reason": WHY}, "no workflow 'wrok' here, so nothing was stopped"),
        ({"tool": "nothing", "reason": WHY}, "no tool"),
        ({"model": "gpt-9", "reason": WHY}, "no model"),
        ({"all": "yes", "reason": WHY}, "all is true"),
        ({"all": True}, "reason says why"),
        ({"all": True, "reason": " "}, "reason says why"),
        ({"all": True, "reason": "x" * 501}, "reason says why"),
        ({"agent": "", "reason": WHY}, "agent is a name"),
        ({"everything": True, "reason": WHY}, "everything"),
    ],
)
async def test_what_is_no_order(domain: Domain, body: dict[str, Any], says: str) -> None:
    answer = await operate(domain, "POST", "/v1/stops", body)
    assert answer.status_code in {400, 422}
    assert says in answer.json()["detail"]
    assert (await operate(domain, "GET", "/v1/stops")).json()["data"] == []


async def test_a_lift_says_why_and_of_what(domain: Domain) -> None:
    found = await stop(domain, tool="item")
    assert code(await operate(domain, "DELETE", f"/v1/stops/{found['id']}")) == "invalid_request"
    assert code(await operate(domain, "DELETE", "/v1/stops/s_nothing?reason=x")) == "not_found"
    assert code(await operate(domain, "DELETE", "/v1/stops/nothing?reason=x")) == "not_found"
    assert code(await operate(domain, "GET", "/v1/stops?x=1")) == "invalid_request"
    with pytest.raises(Problem):
        await domain.apps["onprem"].house.stops.ask("work", (), tool="item")
