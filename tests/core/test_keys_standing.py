"""Keys: agents without OIDC call in a standing task, whose money comes out of a pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from buspass.ledger.windows import Account
from buspass.testing.house import Domain

CONFIG = Path(__file__).parents[1] / "data" / "keys" / "buspass.yaml"
BODY = {"model": "plan", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def domain(tmp_path: Path, service: Any) -> AsyncIterator[Domain]:
    async with Domain(CONFIG, tmp_path, {"127.0.0.1:9002": service.app}) as domain:
        await domain.host()
        yield domain


async def operate(domain: Domain, method: str, path: str, host: str = "onprem", **body: Any) -> httpx.Response:
    client = await domain.host(host)
    headers = {"authorization": f"Bearer {domain.apps[host].house.operator_key}"}
    return await client.request(method, path, json=body or None, headers=headers)


async def made(domain: Domain, **body: Any) -> dict[str, Any]:
    answer = await operate(domain, "POST", "/v1/keys", **{"name": "bot", "workflow": "work", "pool": "support", **body})
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def chat(
    domain: Domain, key: str, session: str | None = None, host: str = "onprem", **body: Any
) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} | ({"buspass-session": session} if session else {})
    return await (await domain.host(host)).post("/v1/chat/completions", json={**BODY, **body}, headers=headers)


async def read(domain: Domain, key: str, path: str, host: str = "onprem") -> httpx.Response:
    return await (await domain.host(host)).get(path, headers={"authorization": f"Bearer {key}"})


def code(answer: httpx.Response) -> str:
    document = answer.json()
    return str(document.get("error", document)["code"])


def pool(domain: Domain, name: str = "support") -> Mapping[str, Any]:
    return _dump(domain)[f"pool:{name}"]["head"]


def _dump(domain: Domain) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = domain.state.inner.dump()  # type: ignore[attr-defined]
    return found


def closed(domain: Domain, name: str = "support") -> bool:
    """Nothing is lost and nothing doubled: what the pool gave is what its open allocations say."""
    head = pool(domain, name)
    records = [item for key, item in _dump(domain)[f"pool:{name}"].items() if key.startswith("alloc:")]
    given = sum(item["amount"] for item in records if item["state"] == "open" and item["turn"])
    spent = sum(item["spent"] for item in records if item["state"] == "released")
    assert head["allocated"]["cost"] == given
    return bool(head["limits"]["cost"] == head["available"]["cost"] + given + spent)


# ── calling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
async def test_a_key_calls_models_and_tools_in_its_standing_task(domain: Domain, header: str) -> None:
    key = (await made(domain))["key"]
    client = await domain.host()
    headers = {header: f"Bearer {key}" if header == "authorization" else key}
    chatted = await client.post("/v1/chat/completions", json=BODY, headers=headers)
    assert chatted.status_code == 200, chatted.text
    acted = await client.post("/v1/tools/item", json={"arguments": {"id": "1"}}, headers=headers)
    assert acted.status_code == 200, acted.text
    task = chatted.headers["buspass-task"]
    assert acted.headers["buspass-task"] == task
    seen = (await client.get(f"/v1/tasks/{task}", headers=headers)).json()
    assert (seen["principal"]["identity"], seen["principal"]["agent"]) == ("key", "bot")
    assert seen["subject"] is None
    assert seen["budget"]["limits"]["cost"] == 0.5
    assert (await client.get("/v1/tools", headers=headers)).status_code == 200
    assert (await client.get("/v1/actions", headers=headers)).json()["data"][0]["tool"] == "item"
    assert (await client.get(f"/v1/tasks/{task}/trace/verify", headers=headers)).json()["ok"]


async def test_a_key_is_an_anthropic_clients_api_key_too(domain: Domain) -> None:
    key = (await made(domain))["key"]
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    body = {"model": "plan", "max_tokens": 50, "messages": BODY["messages"]}
    answer = await (await domain.host()).post("/v1/messages", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["content"][0]["text"] == "hello"
    headers["x-api-key"] = key[:-1]
    refused = await (await domain.host()).post("/v1/messages", json=body, headers=headers)
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")


async def test_the_official_sdk_works_with_a_key_and_raises_its_own_exceptions(domain: Domain) -> None:
    key = await made(domain, budget={"calls": 1})
    application = domain.apps["onprem"]
    transport = httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://onprem")
    async with openai.AsyncOpenAI(base_url="http://onprem/v1", api_key=key["key"], http_client=transport) as client:
        answer = await client.chat.completions.create(**BODY)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == "hello"
        with pytest.raises(openai.APIStatusError) as refused:
            await client.chat.completions.create(**BODY)  # type: ignore[call-overload]
        assert refused.value.status_code == 402
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key=key["key"][:-1] + "_").chat.completions.create(**BODY)  # type: ignore[call-overload]


async def test_a_session_is_a_standing_task_of_its_own(domain: Domain) -> None:
    key = (await made(domain))["key"]
    tasks = [(await chat(domain, key, session)).headers["buspass-task"] for session in (None, "a", "b", "a")]
    assert len(set(tasks)) == 3
    assert tasks[1] == tasks[3]
    assert pool(domain)["allocated"]["cost"] == 1_500_000
    for wrong in ("x" * 129, "tab\there"):
        assert code(await chat(domain, key, wrong)) == "invalid_request"


async def test_two_hosts_that_begin_a_standing_task_at_once_begin_the_same(domain: Domain) -> None:
    key = (await made(domain))["key"]
    await domain.host("aws")
    answers = await asyncio.gather(*(chat(domain, key, host=host) for host in ("onprem", "aws") * 4))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.headers["buspass-task"] for answer in answers}) == 1
    assert pool(domain)["allocated"]["cost"] == 500_000
    assert closed(domain)


async def test_a_key_is_not_read_again_within_five_seconds(domain: Domain) -> None:
    key = (await made(domain))["key"]
    await chat(domain, key)
    before = domain.state.count.reads
    for _ in range(5):
        assert (await chat(domain, key)).status_code == 200
    assert domain.state.count.reads == before
    domain.clock.advance(5)  # type: ignore[attr-defined]
    assert (await chat(domain, key)).status_code == 200
    assert domain.state.count.reads == before + 2, "the key, and the target's breaker"


async def test_a_key_is_bound_to_its_models_and_budget(domain: Domain) -> None:
    key = (await made(domain, models=["draft"], budget={"cost": 0.2, "calls": 2}))["key"]
    assert code(await chat(domain, key)) == "model_not_granted"
    assert (await chat(domain, key, model="draft")).status_code == 200
    assert [row["id"] for row in (await read(domain, key, "/v1/models")).json()["data"]] == ["draft"]
    assert (await chat(domain, key, model="draft")).status_code == 200
    assert code(await chat(domain, key, model="draft")) == "budget_exhausted"
    assert pool(domain)["allocated"]["cost"] == 200_000


async def test_a_key_reads_its_own_task_and_changes_nothing(domain: Domain) -> None:
    key = (await made(domain))["key"]
    task = (await chat(domain, key)).headers["buspass-task"]
    other = await domain.agent(workflow="paid")
    assert code(await read(domain, key, f"/v1/tasks/{other.task}")) == "not_found"
    assert [row["id"] for row in (await read(domain, key, "/v1/tasks")).json()["data"]] == [task]
    client, headers = await domain.host(), {"authorization": f"Bearer {key}"}
    for verb in ("complete", "suspend", "kill"):
        assert code(await client.post(f"/v1/tasks/{task}/{verb}", headers=headers)) == "denied"
    saved = await client.put(f"/v1/tasks/{task}/checkpoint", json={}, headers=headers)
    thought = await client.post(f"/v1/tasks/{task}/thoughts", json={"text": "x"}, headers=headers)
    assert [code(saved), code(thought)] == ["denied", "denied"]
    workload = {"authorization": f"Bearer {await domain.apps['onprem'].mint_workload('me')}"}
    assert code(await client.post(f"/v1/tasks/{task}/resume", headers=workload)) == "not_found"
    for path in ("/v1/tasks", f"/v1/tasks/{task}/resume"):
        started = await client.post(path, json={}, headers=headers)
        assert code(started) == "unauthenticated"
        assert "this is a key" in started.json()["detail"]
    assert code(await client.get("/v1/keys", headers=headers)) == "denied"


# ── renewing and ending ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_standing_task_renews_when_it_expires_and_gives_back_what_is_left(domain: Domain) -> None:
    key = (await made(domain))["key"]
    first = (await chat(domain, key)).headers
    spent = round(float(first["buspass-cost"]) * 1e6)
    domain.clock.advance(601)  # type: ignore[attr-defined]
    second = await chat(domain, key)
    assert second.status_code == 200, second.text
    assert second.headers["buspass-task"] != first["buspass-task"]
    assert pool(domain)["allocated"]["cost"] == 500_000
    assert pool(domain)["available"]["cost"] == 2_000_000 - 500_000 - spent
    assert closed(domain)
    other = await chat(domain, key, host="aws")
    assert other.headers["buspass-task"] == second.headers["buspass-task"]


async def test_a_completed_standing_task_is_followed_by_the_next(domain: Domain) -> None:
    key = (await made(domain))["key"]
    first = (await chat(domain, key)).headers["buspass-task"]
    assert (await operate(domain, "POST", f"/v1/tasks/{first}/complete", reason="enough")).status_code == 200
    assert pool(domain)["allocated"]["cost"] == 0
    assert (await chat(domain, key)).headers["buspass-task"] != first
    assert closed(domain)


async def test_a_suspended_standing_task_keeps_the_key_waiting(domain: Domain) -> None:
    key = (await made(domain))["key"]
    task = (await chat(domain, key)).headers["buspass-task"]
    await operate(domain, "POST", f"/v1/tasks/{task}/suspend", reason="look")
    assert code(await chat(domain, key)) == "task_not_open"
    assert pool(domain)["allocated"]["cost"] == 500_000


async def test_a_kill_stops_the_key_in_every_session_until_it_is_rotated(domain: Domain) -> None:
    key = await made(domain)
    task = (await chat(domain, key["key"])).headers["buspass-task"]
    assert (await chat(domain, key["key"], host="aws", session="b")).status_code == 200
    assert (await operate(domain, "POST", f"/v1/tasks/{task}/kill", reason="stop it")).status_code == 200
    refused = await chat(domain, key["key"], "invented")
    assert code(refused) == "task_killed"
    assert "rotates" in refused.json()["error"]["message"]
    domain.clock.advance(5)  # type: ignore[attr-defined]
    assert code(await chat(domain, key["key"], host="aws", session="b")) == "task_killed"
    (row,) = (await operate(domain, "GET", "/v1/keys")).json()["data"]
    assert (row["status"], row["killed_task"]) == ("stopped", task)
    rotated = (await operate(domain, "POST", f"/v1/keys/{key['id']}/rotate")).json()
    assert rotated["status"] == "active"
    again = await chat(domain, rotated["key"])
    assert again.status_code == 200
    assert again.headers["buspass-task"] != task
    assert closed(domain)


async def test_a_killed_standing_task_stops_its_key_whoever_killed_it(domain: Domain) -> None:
    key = await made(domain)
    task = (await chat(domain, key["key"])).headers["buspass-task"]
    house = domain.apps["onprem"].house
    await house.tasks.change(task, "kill", {"kind": "lifecycle", "at": 1, "host": "h"})
    assert code(await chat(domain, key["key"])) == "task_killed"
    assert code(await chat(domain, key["key"], "invented")) == "task_killed"


async def test_a_revoked_key_is_refused_at_once_here_and_within_five_seconds_elsewhere(domain: Domain) -> None:
    key = await made(domain)
    for host in ("onprem", "aws"):
        assert (await chat(domain, key["key"], host=host)).status_code == 200
    assert (await operate(domain, "POST", f"/v1/keys/{key['id']}/revoke")).json()["status"] == "revoked"
    assert code(await chat(domain, key["key"])) == "unauthenticated"
    domain.clock.advance(5)  # type: ignore[attr-defined]
    assert code(await chat(domain, key["key"], host="aws")) == "unauthenticated"
    assert code(await operate(domain, "POST", f"/v1/keys/{key['id']}/rotate")) == "invalid_request"


async def test_an_expired_key_is_refused_and_its_task_lives_no_longer_than_it(domain: Domain) -> None:
    key = (await made(domain, expires_in=60))["key"]
    task = (await chat(domain, key)).headers["buspass-task"]
    domain.clock.advance(61)  # type: ignore[attr-defined]
    assert code(await chat(domain, key)) == "unauthenticated"
    shown = await operate(domain, "GET", f"/v1/tasks/{task}")
    assert shown.json()["status"] == "expired"
    assert pool(domain)["allocated"]["cost"] == 0


async def test_a_rotated_key_is_good_for_its_grace_and_no_longer(domain: Domain) -> None:
    old = await made(domain)
    task = (await chat(domain, old["key"])).headers["buspass-task"]
    new = (await operate(domain, "POST", f"/v1/keys/{old['id']}/rotate", grace=3600)).json()
    assert (await chat(domain, old["key"], host="aws")).headers["buspass-task"] == task
    assert (await chat(domain, new["key"])).headers["buspass-task"] == task
    assert (await chat(domain, old["key"])).status_code == 200
    domain.clock.advance(3600)  # type: ignore[attr-defined]
    assert code(await chat(domain, old["key"])) == "unauthenticated"
    assert (await chat(domain, new["key"], host="aws")).status_code == 200
    final = (await operate(domain, "POST", f"/v1/keys/{old['id']}/rotate")).json()
    assert (await chat(domain, final["key"], host="aws")).status_code == 200, "no host refuses a new secret"
    assert code(await chat(domain, new["key"])) == "unauthenticated"
    assert (await chat(domain, final["key"])).status_code == 200


# ── money ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_inventing_sessions_mints_no_money(domain: Domain) -> None:
    key = (await made(domain))["key"]
    await domain.host("aws")
    answers = await asyncio.gather(*(chat(domain, key, f"s{n}", ("onprem", "aws")[n % 2]) for n in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 16
    refused = next(answer for answer in answers if answer.status_code == 429).json()["error"]
    assert (refused["code"], refused["limit"], refused["pool"]) == ("budget_held", "pool", "support")
    assert pool(domain)["available"]["cost"] == 0
    assert closed(domain)
    domain.clock.advance(601)  # type: ignore[attr-defined]
    assert (await chat(domain, key, "late")).status_code == 200, "what ended tasks left came back"
    assert closed(domain)


async def test_a_pool_that_is_spent_says_so_and_a_larger_one_pays_on(domain: Domain) -> None:
    key = (await made(domain, pool="spare", budget={"cost": 0.08}))["key"]
    assert (await chat(domain, key)).status_code == 200
    house = domain.apps["onprem"].house
    (task,) = (await read(domain, key, "/v1/tasks")).json()["data"]
    await house.tasks.change(task["id"], "complete", {"kind": "lifecycle", "at": 1, "host": "h"})
    await house.pools.release("spare", task["id"], 80_000)
    refused = await chat(domain, key, "next")
    assert code(refused) == "budget_exhausted"
    assert "pools.spare.cost" in refused.json()["error"]["message"]
    await house.pools.allocate(Account(id="spare", pool="spare", holds=200_000), "t_other", 1, 0)
    assert pool(domain, "spare")["limits"]["cost"] == 200_000


async def test_a_workflow_with_a_pool_draws_its_tasks_money_from_it_too(domain: Domain) -> None:
    agents = [await domain.agent(workflow="paid") for _ in range(2)]
    assert pool(domain, "spare")["available"]["cost"] == 0
    client = await domain.host()
    token = await domain.apps["onprem"].mint_workload("me")
    third = await client.post("/v1/tasks", json={"workflow": "paid"}, headers={"authorization": f"Bearer {token}"})
    assert code(third) == "budget_held"
    assert (await agents[0].post("complete")).status_code == 200
    assert pool(domain, "spare")["available"]["cost"] == 50_000
    assert (await agents[1].post("kill")).status_code == 200
    assert pool(domain, "spare")["available"]["cost"] == 100_000
    assert closed(domain, "spare")
    for agent in agents:
        verdict = await operate(domain, "GET", f"/v1/tasks/{agent.task}/trace/verify")
        assert verdict.json()["ok"], verdict.text


async def test_what_a_call_in_flight_at_the_kill_leaves_comes_back_when_it_has_ended(
    domain: Domain, service: Any
) -> None:
    agent = await domain.agent(workflow="tooled")
    killed: list[tuple[httpx.Response, int]] = []

    async def kill(body: Any) -> None:
        answer = await agent.post("kill")
        killed.append((answer, pool(domain, "spare")["allocated"]["cost"]))

    service.hooks["/items/1"] = kill
    await agent.call("item", {"id": "1"})
    ((answer, allocated),) = killed
    assert (answer.json()["in_flight"], allocated) == (1, 50_000)
    assert pool(domain, "spare")["allocated"]["cost"] == 0
    assert closed(domain, "spare")


async def test_a_store_that_is_away_refuses_a_key(domain: Domain) -> None:
    key = (await made(domain))["key"]
    domain.state.inner.down = True  # type: ignore[attr-defined]
    assert code(await chat(domain, key)) == "state_unavailable"
    domain.state.inner.down = False  # type: ignore[attr-defined]
    assert (await chat(domain, key)).status_code == 200
