"""The route: who must come before whom, for which order, how long ago, how often; and the race for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from random import Random
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from buspass.config.settings import After, Step
from buspass.errors import Problem
from buspass.guard import check_route, check_standing, newest_first
from buspass.model import Subject
from buspass.ports.state import Applied, plain
from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain

NOW = 1_000_000
CUSTOMER = Subject(type="customer", id="C-1", proof="token")


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


def kept(turn: int, at: int = NOW, **facts: Any) -> dict[str, Any]:
    return {"facts": json.dumps(facts), "at": at, "turn": turn}


def head(*entries: dict[str, Any], running: int = 0, done: int | None = None, turns: int | None = None) -> Any:
    """A head after these kept facts of `check`."""
    done = len(entries) if done is None else done
    return {
        "left": {"pay": 1},
        "running": {"check": running} if running else {},
        "done": {"check": done} if done else {},
        "turns": {"check": max([0, *(entry["turn"] for entry in entries)]) if turns is None else turns},
        "kept": {f"check:{entry['turn'] % 16}": entry for entry in entries},
    }


def verdict(
    found: Any, after: After, arguments: Mapping[str, Any] | None = None, subject: Subject | None = None
) -> str | bool:
    """Whether history was read, or the code of the refusal."""
    step = Step(tool="pay", after=(after,))
    try:
        return check_route(found, step, arguments or {}, subject, NOW)
    except Problem as problem:
        return problem.code


BARE = After(tool="check")
APPROVED = After(tool="check", where={"approved": True})
ORDER = After(tool="check", where={"approved": True, "order": "$arguments.order"})
MINE = After(tool="check", where={"owner": "$subject.id", "kind": "$subject.type"})
RECENT = After(tool="check", within=10)
O1 = {"order": "o-1"}


@pytest.mark.parametrize(
    ("found", "after", "arguments", "expected"),
    [
        (head(), BARE, {}, "prerequisite_missing"),
        (head(done=1), BARE, {}, False),
        (head(running=1), BARE, {}, "prerequisite_in_flight"),
        (head(done=1, running=1), BARE, {}, False),
        (head(kept(1, approved=True)), APPROVED, {}, True),
        (head(kept(1, approved=True), running=1), APPROVED, {}, "prerequisite_in_flight"),
        (head(kept(1, approved=False)), APPROVED, {}, "prerequisite_missing"),
        (head(kept(1, approved=1)), APPROVED, {}, "prerequisite_missing"),
        (head(kept(1, approved="true")), APPROVED, {}, "prerequisite_missing"),
        (head(kept(1)), APPROVED, {}, "prerequisite_missing"),
        (head(done=1), APPROVED, {}, "prerequisite_missing"),
        (head(kept(1, approved=True, order="o-1")), ORDER, O1, True),
        (head(kept(1, approved=True, order="o-2")), ORDER, O1, "prerequisite_missing"),
        (head(kept(1, approved=True, order="o-1")), ORDER, {}, "prerequisite_missing"),
        (head(kept(1, approved=True)), ORDER, {"order": None}, "prerequisite_missing"),
        (head(kept(1, approved=True, order="o-1"), kept(2, approved=False, order="o-1")), ORDER, O1, "missing"),
        (head(kept(1, approved=False, order="o-1"), kept(2, approved=True, order="o-1")), ORDER, O1, True),
        (head(kept(1, approved=True, order="o-1"), kept(2, approved=False, order="o-2")), ORDER, O1, True),
        (head(kept(2, NOW - 9, approved=True), kept(3, NOW - 99, approved=False)), APPROVED, {}, "missing"),
        (head(kept(1, NOW - 10_000)), RECENT, {}, True),
        (head(kept(1, NOW - 10_001)), RECENT, {}, "prerequisite_missing"),
        (head(kept(1, owner="C-1", kind="customer")), MINE, {}, True),
        (head(kept(1, owner="C-2", kind="customer")), MINE, {}, "prerequisite_missing"),
        (head(kept(1, approved=False)), After(tool="check", where={"approved": False}), {}, True),
        (head(kept(1, n=1)), After(tool="check", where={"n": 1.0}), {}, True),
    ],
)
def test_what_must_have_come_before(found: Any, after: After, arguments: dict[str, Any], expected: str | bool) -> None:
    expected = "prerequisite_missing" if expected == "missing" else expected
    assert verdict(found, after, arguments, CUSTOMER) == expected


def test_without_a_subject_nothing_is_the_subjects() -> None:
    assert verdict(head(kept(1, owner="C-1", kind="customer")), MINE) == "prerequisite_missing"


def test_a_kept_fact_does_not_outlive_sixteen_younger_calls() -> None:
    """The 18th call took the place of the 2nd, which said no; the 17th failed and left the 1st, which said yes."""
    yes, other = kept(1, approved=True, order="o-1"), kept(18, approved=True, order="o-3")
    assert verdict(head(yes, other), ORDER, O1) == "prerequisite_missing"
    assert verdict(head(yes, turns=16), ORDER, O1) is True
    assert verdict(head(yes, turns=17), ORDER, O1) == "prerequisite_missing"


def test_facts_are_told_by_turn_and_tools_with_like_names_apart() -> None:
    found = head(kept(1, n=1), kept(2, n=2))
    found["kept"]["check:2:3"] = kept(3, n=3)
    assert [entry["facts"]["n"] for entry in newest_first(found, "check")] == [2, 1]


def test_a_cap_is_told_with_its_limit() -> None:
    found = head(done=1) | {"left": {"pay": 0}}
    with pytest.raises(Problem, match="call_limit") as met:
        check_route(found, Step(tool="pay", max_calls=1), {}, None, NOW)
    assert met.value.extra == {"limit": 1}


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, None),
        ({"status": "killed"}, "task_killed"),
        ({"status": "expired"}, "task_expired"),
        ({"status": "suspended"}, "task_not_open"),
        ({"status": "completed"}, "task_not_open"),
        ({"expires_at": NOW}, "task_expired"),
        ({"expires_at": NOW + 1}, None),
        ({"fence": 2}, "fenced"),
        ({"status": "killed", "fence": 2}, "task_killed"),
    ],
)
def test_who_is_kept_out(changes: dict[str, Any], refusal: str | None) -> None:
    found = {"status": "open", "fence": 1, "expires_at": NOW + 1000, **changes}
    if refusal is None:
        check_standing(found, 1, NOW)
        return
    with pytest.raises(Problem) as met:
        check_standing(found, 1, NOW)
    assert met.value.code == refusal


# ── through the gateway ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_pay_needs_an_approved_check_of_its_own_order(domain: Domain, service: Any) -> None:
    agent = await domain.agent()
    pay = {"order": "o-1", "amount": 1}
    assert code(await agent.call("pay", pay)) == "prerequisite_missing"
    await agent.call("check", {"order": "o-2"})
    assert code(await agent.call("pay", pay)) == "prerequisite_missing"
    service.approved = False
    await agent.call("check", {"order": "o-1"})
    answer = await agent.call("pay", pay)
    assert (answer.status_code, code(answer)) == (409, "prerequisite_missing")
    assert "approved" in answer.json()["detail"], "it says what the check said"
    service.approved = True
    await agent.call("check", {"order": "o-1"})
    assert (await agent.call("pay", pay)).status_code == 200
    assert service.got("/pay") == [pay]


async def test_a_check_that_is_running_keeps_pay_out_even_after_an_older_yes(domain: Domain, service: Any) -> None:
    agent = await domain.agent()
    await agent.call("check", {"order": "o-1"})
    opened, came = asyncio.Event(), asyncio.Event()

    async def slow(body: Any) -> Response:
        came.set()
        await opened.wait()
        return JSONResponse({"approved": False, "order": body["order"]})

    service.hooks["/checks"] = slow
    check = asyncio.create_task((await domain.at("aws", agent)).call("check", {"order": "o-1"}))
    await came.wait()
    answer = await agent.call("pay", {"order": "o-1", "amount": 1})
    assert (answer.status_code, code(answer)) == (409, "prerequisite_in_flight")
    assert answer.json()["prerequisite"] == "check"
    assert "retry-after" in answer.headers
    opened.set()
    await check
    assert code(await agent.call("pay", {"order": "o-1", "amount": 1})) == "prerequisite_missing"
    assert not service.got("/pay")


async def test_an_approval_is_good_for_ten_minutes(domain: Domain) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    agent = await domain.agent(workflow="timed")
    assert (await agent.call("item", {"id": "1"})).status_code == 200
    clock.advance(60)
    assert (await agent.call("check", {"order": "1"})).status_code == 200
    clock.advance(0.1)
    answer = await agent.call("check", {"order": "1"})
    assert (answer.status_code, code(answer)) == (409, "prerequisite_missing")
    assert "60 s ago" in answer.json()["detail"]


async def test_a_cap_holds_over_two_hosts(domain: Domain, service: Any) -> None:
    agent = await domain.agent(workflow="many")
    await agent.call("check", {"order": "1"})
    pay = {"order": "1", "amount": 1}
    answers = await asyncio.gather(*(agent.call("pay", pay) for _ in range(20)))
    assert sorted({answer.status_code for answer in answers}) == [200, 403]
    assert sum(answer.status_code == 200 for answer in answers) == 2
    assert {code(answer) for answer in answers if answer.status_code == 403} == {"call_limit"}
    assert len(service.got("/pay")) == 2


async def test_a_call_that_was_surely_not_sent_gives_its_place_back(domain: Domain) -> None:
    agent = await domain.agent(workflow="many")
    await agent.call("check", {"order": "1"})
    down: set[str] = domain.outbound.inner.down  # type: ignore[attr-defined]  # it is an AsgiOutbound
    down.add("127.0.0.1:9002")
    for _ in range(3):
        assert code(await agent.call("pay", {"order": "1", "amount": 1})) == "upstream_error"
    down.clear()
    domain.clock.advance(30)  # type: ignore[attr-defined]  # until the service's breaker lets one go again
    for status in (200, 200, 403):
        assert (await agent.call("pay", {"order": "1", "amount": 1})).status_code == status


async def test_what_a_lost_host_left_running_ends_at_the_next_call(domain: Domain, service: Any) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    came = asyncio.Event()

    async def hangs(body: Any) -> None:
        came.set()
        await asyncio.sleep(30)

    service.hooks["/checks"] = hangs
    agent = await domain.agent()
    lost = asyncio.create_task(agent.call("check", {"order": "o-1"}))
    await came.wait()
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    pay = {"order": "o-1", "amount": 1}
    assert code(await agent.call("pay", pay)) == "prerequisite_in_flight"
    clock.advance(21)
    assert code(await agent.call("pay", pay)) == "prerequisite_missing", "it is over, and it said nothing"


async def test_a_bound_argument_is_the_subjects_or_denied(identified: Domain, issuer: Any, service: Any) -> None:
    client = await identified.host()
    started = await client.post(
        "/v1/tasks",
        json={"workflow": "returns", "on_behalf_of": {"token": issuer.customer("shop", "C-7")}},
        headers={"authorization": f"Bearer {issuer.workload('staff', 'returns')}"},
    )
    assert started.status_code == 201, started.text
    headers = {"authorization": f"Bearer {started.json()['token']}"}

    async def call(tool: str, **arguments: Any) -> httpx.Response:
        return await client.post(f"/v1/tools/{tool}", json={"arguments": arguments}, headers=headers)

    answer = await call("item", id="C-8")
    assert (answer.status_code, code(answer)) == (403, "denied")
    assert answer.json()["errors"][0]["path"] == "/id"
    assert not service.requests
    assert (await call("item", id="C-7")).status_code == 200
    await call("check", order="C-8")
    assert code(await call("pay", order="x", amount=1)) == "prerequisite_missing", "kept of another than the subject"
    await call("check", order="C-7")
    assert (await call("pay", order="x", amount=1)).status_code == 200


@pytest.mark.parametrize("batches", [5, pytest.param(30, marks=pytest.mark.verify)])
async def test_the_refund_rule_under_pressure(domain: Domain, service: Any, batches: int) -> None:
    """Twenty tries a batch over two hosts: nothing is paid without a finished yes for that very order."""
    random = Random(3)
    finished: dict[str, bool] = {}
    wrong: list[str] = []

    async def check(body: Any) -> Response:
        for _ in range(random.randrange(40)):
            await asyncio.sleep(0)
        approved = random.random() < 0.6
        finished[body["order"]] = approved
        return JSONResponse({"approved": approved, "order": body["order"]})

    async def pay(body: Any) -> None:
        if finished.get(body["order"]) is not True:
            wrong.append(body["order"])

    service.hooks |= {"/checks": check, "/pay": pay}

    async def attempt(number: int) -> httpx.Response:
        agent = await domain.agent()
        there = await domain.at("aws", agent)
        order = f"o-{number}"
        asked = order if random.random() < 0.7 else f"x-{number}"
        checking = asyncio.create_task(there.call("check", {"order": asked}))
        for _ in range(random.randrange(120)):
            await asyncio.sleep(0)
        early = await agent.call("pay", {"order": order, "amount": 1})
        assert (await checking).status_code == 200
        late = await agent.call("pay", {"order": order, "amount": 1})
        allowed = finished.get(order) is True
        paid = [answer.status_code for answer in (early, late)].count(200)
        assert paid == int(allowed), (number, early.text, late.text)
        assert {code(answer) for answer in (early, late) if answer.status_code != 200} <= {
            "prerequisite_missing",
            "prerequisite_in_flight",
            "call_limit",
        }
        return early

    outcomes: set[str] = set()
    for batch in range(batches):
        answers = await asyncio.gather(*(attempt(20 * batch + n) for n in range(20)))
        outcomes |= {"paid" if answer.status_code == 200 else code(answer) for answer in answers}
    assert not wrong
    assert outcomes == {"paid", "prerequisite_missing", "prerequisite_in_flight"}, "each way was met"


@pytest.mark.parametrize("batches", [6, pytest.param(20, marks=pytest.mark.verify)])
async def test_a_second_check_races_the_payment_that_the_first_one_allowed(
    domain: Domain, service: Any, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """A payment's hold commits only while no check runs and the newest word on its order is yes."""
    random = Random(5)
    store: Any = domain.state.inner
    apply, judged = store.apply, []

    async def watched(partition: str, operations: Any) -> Any:
        answer = await apply(partition, operations)
        heads = [plain(part) for part in operations if part.key == "head"]
        entered = [value for part in heads for value in getattr(part, "set", {}).values()]
        if isinstance(answer, Applied) and any(isinstance(e, dict) and e.get("name") == "pay" for e in entered):
            head: Any = answer.item
            newest = newest_first(head, "check")[0]["facts"]
            judged.append((head["running"].get("check", 0), newest["approved"]))
        return answer

    async def check(body: Any) -> Response:
        for _ in range(random.randrange(10)):
            await asyncio.sleep(0)
        return JSONResponse({"approved": random.random() < 0.7, "order": body["order"]})

    monkeypatch.setattr(store, "apply", watched)
    service.hooks["/checks"] = check

    async def later(call: Any) -> httpx.Response:
        for _ in range(random.randrange(20)):
            await asyncio.sleep(0)
        answer: httpx.Response = await call
        return answer

    async def attempt(number: int) -> None:
        agent = await domain.agent()
        there = await domain.at("aws", agent)
        order = {"order": f"o-{number}"}
        assert (await there.call("check", order)).status_code == 200
        await asyncio.gather(later(there.call("check", order)), later(agent.call("pay", {**order, "amount": 1})))

    for batch in range(batches):
        await asyncio.gather(*(attempt(15 * batch + n) for n in range(15)))
    assert set(judged) == {(0, True)}
    assert len(judged) == len(service.got("/pay")) > 2 * batches
