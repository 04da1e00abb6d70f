"""How a task changes hands and ends: suspend, resume, complete, kill, expire, renew; and who may do it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import jwt
import pytest

from buspass.ledger import RUN_LIMIT
from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.issuer import Issuer

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


def code(response: httpx.Response) -> str:
    document = response.json()
    return str(document.get("error", document)["code"])


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def resume(domain: Domain, agent: Agent, worker: str = "me", **body: Any) -> httpx.Response:
    token = await domain.apps["onprem"].mint_workload(worker)
    return await agent.client.post(f"/v1/tasks/{agent.task}/resume", json=body, headers=bearer(token))


def heir(agent: Agent, answer: httpx.Response) -> Agent:
    assert answer.status_code == 200, answer.text
    return Agent(client=agent.client, task=agent.task, token=answer.json()["token"], document=answer.json()["task"])


async def operations(agent: Agent) -> list[str]:
    trace = (await agent.get("/trace")).json()["records"]
    return [row["operation"] for row in trace if row["kind"] == "lifecycle"]


async def every_route(agent: Agent) -> dict[str, httpx.Response]:
    """What a task token opens."""
    get = ["", "/trace", "/trace/verify", "/checkpoint"]
    answers = {f"GET {path}": await agent.get(path) for path in get}
    for path in ("/v1/tasks", "/v1/models", "/v1/tools", "/v1/actions", "/v1/actions/x"):
        answers[f"GET {path}"] = await agent.client.get(path, headers=agent.headers)
    answers["chat"] = await agent.chat()
    answers["call"] = await agent.call("item", {"id": "1"})
    for verb in ("complete", "suspend"):
        answers[verb] = await agent.post(verb)
    answers["think"] = await agent.post("thoughts", text="hm")
    checkpoint = f"/v1/tasks/{agent.task}/checkpoint"
    answers["save"] = await agent.client.put(checkpoint, json={}, headers=agent.headers)
    return answers


async def test_suspend_parks_and_resume_hands_on_with_a_new_fence(domain: Domain) -> None:
    agent = await domain.agent()
    parked = await agent.post("suspend", reason="lunch")
    assert (parked.status_code, parked.json()["status"]) == (200, "suspended")
    assert code(await agent.chat()) == "task_not_open"
    new = heir(agent, await resume(domain, agent, reason="back"))
    assert (new.document["fence"], new.document["status"]) == (2, "open")
    for host in ("onprem", "aws"):
        old = await domain.at(host, agent)
        assert (await old.chat()).status_code == 409
        assert {name: code(answer) for name, answer in (await every_route(old)).items()} == dict.fromkeys(
            await every_route(old), "fenced"
        )
        assert (await (await domain.at(host, new)).chat()).status_code == 200
    assert await operations(new) == ["start", "suspend", "resume"]
    reasons = [row["reason"] for row in (await new.get("/trace")).json()["records"] if row["kind"] == "lifecycle"]
    assert reasons[1:] == ["lunch", "back"]


async def test_an_open_task_can_be_taken_over_after_a_crash(domain: Domain) -> None:
    agent = await domain.agent()
    new = heir(agent, await resume(domain, agent))
    assert (await new.chat()).status_code == 200
    assert code(await agent.post("kill")) == "fenced", "the old worker ends nothing any more"


async def test_another_agent_that_may_takes_over_and_acts_in_its_own_name(
    identified: Domain, issuer: Issuer, service: Any
) -> None:
    client = await identified.host()
    behalf = {"workflow": "returns", "on_behalf_of": {"token": issuer.customer("shop", "C-7")}}
    first = bearer(issuer.workload("staff", "returns"))
    started = (await client.post("/v1/tasks", json=behalf, headers=first)).json()
    path = f"/v1/tasks/{started['task']['id']}"
    stranger = await client.post(f"{path}/resume", headers=bearer(issuer.workload("staff", "stranger")))
    assert (stranger.status_code, code(stranger)) == (404, "not_found")
    backup = bearer(issuer.workload("staff", "backup-1"))
    taken = await client.post(f"{path}/resume", headers=backup)
    assert taken.status_code == 200, taken.text
    claims = jwt.decode(taken.json()["token"], options={"verify_signature": False})
    assert (claims["act"], claims["sub"]) == ({"sub": "staff:backup-1"}, "customer:C-7")
    called = await client.post(
        "/v1/tools/item", json={"arguments": {"id": "C-7"}}, headers=bearer(taken.json()["token"])
    )
    assert called.status_code == 200, called.text
    shown = jwt.decode(service.requests[0].headers["txn-token"], options={"verify_signature": False})
    assert (shown["act"], shown["sub"], shown["req_wl"]) == ({"sub": "staff:backup-1"}, "customer:C-7", "onprem")
    form = {"grant_type": EXCHANGE, "subject_token": taken.json()["token"]}
    for agent, status in (("backup-1", 200), ("returns", 403)):
        renewed = await client.post("/oauth2/token", data={**form, "actor_token": issuer.workload("staff", agent)})
        assert renewed.status_code == status, "who holds the token renews it"


@pytest.mark.parametrize(
    ("verb", "status", "refusal"),
    [("complete", "completed", "task_not_open"), ("kill", "killed", "task_killed")],
)
async def test_an_end_is_an_end(domain: Domain, verb: str, status: str, refusal: str) -> None:
    agent = await domain.agent()
    assert (await agent.post(verb, reason="done")).json()["status"] == status
    assert code(await agent.chat()) == refusal
    again = await agent.post(verb, reason="twice")
    assert (again.status_code, again.json()["status"]) == (200, status), "a repetition answers as the first time"
    assert code(await resume(domain, agent)) == refusal
    operator = bearer(str(domain.apps["onprem"].house.operator_key))
    trace = (await agent.client.get(f"/v1/tasks/{agent.task}/trace", headers=operator)).json()["records"]
    assert [row["operation"] for row in trace if row["kind"] == "lifecycle"] == ["start", verb]
    verdict = (await agent.client.get(f"/v1/tasks/{agent.task}/trace/verify", headers=operator)).json()
    assert verdict["ok"]
    assert verdict["sealed"] == verdict["records"], "an end seals, and so does its repetition"


async def test_a_suspended_task_may_be_completed_and_a_completed_one_not_suspended(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.post("suspend")
    assert (await agent.post("complete")).json()["status"] == "completed"
    assert code(await agent.post("suspend")) == "task_not_open"


async def test_a_completed_tasks_agent_may_still_read_it(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.post("complete")
    for path in ("", "/trace", "/trace/verify"):
        assert (await agent.get(path)).status_code == 200
    assert (await agent.client.get("/v1/actions", headers=agent.headers)).status_code == 200
    for path in ("/v1/models", "/v1/tools"):
        assert code(await agent.client.get(path, headers=agent.headers)) == "task_not_open"


async def test_a_kill_makes_every_token_useless_at_once_on_every_host(domain: Domain) -> None:
    agent = await domain.agent()
    there = await domain.at("aws", agent)
    assert (await there.chat()).status_code == 200
    killed = await agent.post("kill", reason="stolen")
    assert (killed.status_code, killed.json()["in_flight"]) == (200, 0)
    for who in (agent, there):
        answers = await every_route(who)
        assert {name: code(answer) for name, answer in answers.items()} == dict.fromkeys(answers, "task_killed")
    assert len(domain.provider.requests) == 1


async def test_a_kill_says_what_is_still_in_flight_and_until_when(domain: Domain, service: Any) -> None:
    opened, came = asyncio.Event(), asyncio.Event()

    async def slow(body: Any) -> None:
        came.set()
        await opened.wait()

    service.hooks["/checks"] = slow
    agent = await domain.agent()
    call = asyncio.create_task(agent.call("check", {"order": "1"}))
    await came.wait()
    killed = (await agent.post("kill", reason="stop")).json()
    assert (killed["status"], killed["in_flight"]) == ("killed", 1)
    assert killed["drained_by"] == "2026-09-21T14:13:30.000Z", "the tool's ten seconds"
    opened.set()
    assert (await call).status_code == 200, "what was sent is settled"
    operator = bearer(str(domain.apps["onprem"].house.operator_key))
    found = (await agent.client.get(f"/v1/tasks/{agent.task}", headers=operator)).json()
    assert found["budget"]["spent"]["calls"] == 1
    verdict = (await agent.client.get(f"/v1/tasks/{agent.task}/trace/verify", headers=operator)).json()
    assert verdict["ok"]
    assert verdict["sealed"] == verdict["records"], "what ended after its task did is sealed too"


async def test_what_a_lost_host_left_of_a_killed_task_is_swept_and_sealed(domain: Domain, service: Any) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    came = asyncio.Event()

    async def hangs(body: Any) -> None:
        came.set()
        await asyncio.sleep(30)

    service.hooks["/checks"] = hangs
    agent = await domain.agent()
    lost = asyncio.create_task(agent.call("check", {"order": "1"}))
    await came.wait()
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    await agent.post("kill")
    clock.advance(21)
    operator = bearer(str(domain.apps["onprem"].house.operator_key))
    found = (await agent.client.get(f"/v1/tasks/{agent.task}", headers=operator)).json()
    assert (found["budget"]["held"]["calls"], found["budget"]["spent"]["calls"]) == (0, 1)
    verdict = (await agent.client.get(f"/v1/tasks/{agent.task}/trace/verify", headers=operator)).json()
    assert (verdict["ok"], verdict["sealed"]) == (True, verdict["records"])


@pytest.mark.parametrize("verb", ["resume", "complete", "suspend", "read"])
async def test_a_task_whose_time_is_over_expires_at_the_next_look(domain: Domain, verb: str) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    agent = await domain.agent(budget={"wall": 60})
    clock.advance(61)
    if verb == "resume":
        assert code(await resume(domain, agent)) == "task_expired"
    elif verb != "read":
        assert code(await agent.post(verb)) == "task_expired"
    task = (await agent.get()).json()
    assert task["status"] == "expired"
    assert await operations(agent) == ["start", "expire"]
    assert (await agent.get("/trace/verify")).json()["seals"] == 1
    assert code(await agent.client.get("/v1/tools", headers=agent.headers)) == "task_expired"
    assert code(await agent.post("thoughts", text="too late")) == "task_expired"
    clock.advance(6)
    assert code(await agent.get()) == "unauthenticated", "the token's time is over too"


# ── renewal ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def renew(domain: Domain, token: str, worker: str = "me", **changes: str) -> httpx.Response:
    client = await domain.host()
    actor = await domain.apps["onprem"].mint_workload(worker)
    form = {"grant_type": EXCHANGE, "subject_token": token, "actor_token": actor, **changes}
    return await client.post("/oauth2/token", data={name: value for name, value in form.items() if value})


async def test_the_workload_renews_its_task_token(domain: Domain) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    agent = await domain.agent(workflow="free")
    clock.advance(1000)
    answer = await renew(domain, agent.token)
    assert answer.status_code == 200, answer.text
    given = answer.json()
    assert given["token_type"] == "Bearer"
    assert given["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    assert given["expires_in"] == 800, "the task's own end stays"
    assert given["access_token"] != agent.token
    new = Agent(client=agent.client, task=agent.task, token=given["access_token"], document={})
    assert (await new.chat()).status_code == 200


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"grant_type": "client_credentials"}, "unsupported"),
        ({"grant_type": ""}, "unsupported"),
        ({"actor_token": ""}, "invalid_request"),
        ({"subject_token": ""}, "invalid_request"),
        ({"subject_token": "garbage"}, "unauthenticated"),
        ({"actor_token": "garbage"}, "unauthenticated"),
        ({"worker": "other"}, "denied"),
    ],
)
async def test_a_task_token_alone_renews_nothing(domain: Domain, changes: dict[str, str], problem: str) -> None:
    agent = await domain.agent()
    assert code(await renew(domain, agent.token, **changes)) == problem


async def test_the_task_token_is_no_actor(domain: Domain) -> None:
    agent = await domain.agent()
    assert code(await renew(domain, agent.token, actor_token=agent.token)) == "unauthenticated"


@pytest.mark.parametrize(
    ("verb", "problem"),
    [("kill", "task_killed"), ("complete", "task_not_open"), ("suspend", "task_not_open"), ("resume", "fenced")],
)
async def test_only_an_open_tasks_own_worker_renews(domain: Domain, verb: str, problem: str) -> None:
    agent = await domain.agent()
    await (resume(domain, agent) if verb == "resume" else agent.post(verb))
    assert code(await renew(domain, agent.token)) == problem


async def test_a_renewal_is_a_form_in_utf_8(domain: Domain) -> None:
    client = await domain.host()
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert code(await client.post("/oauth2/token", json={})) == "invalid_request"
    assert code(await client.post("/oauth2/token", content=b"\xff", headers=kind)) == "invalid_request"


# ── who may ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_anothers_task_is_not_found_for_its_neighbour_and_for_a_strange_workload(domain: Domain) -> None:
    mine, other = await domain.agent(), await domain.agent()
    stranger = bearer(await domain.apps["onprem"].mint_workload("stranger"))
    path = f"/v1/tasks/{other.task}"
    for headers in (mine.headers, stranger):
        answers = [await mine.client.get(path + part, headers=headers) for part in ("", "/trace", "/trace/verify")]
        answers += [await mine.client.get(f"{path}/checkpoint", headers=headers)]
        answers += [
            await mine.client.post(f"{path}/{verb}", headers=headers) for verb in ("complete", "suspend", "kill")
        ]
        if headers is mine.headers:
            answers += [await mine.client.put(f"{path}/checkpoint", json={}, headers=headers)]
            answers += [await mine.client.post(f"{path}/thoughts", json={"text": "x"}, headers=headers)]
        assert {(answer.status_code, code(answer)) for answer in answers} == {(404, "not_found")}
    nobody = await mine.client.get("/v1/tasks/t_nothing", headers=mine.headers)
    hidden = await mine.client.get(path, headers=mine.headers)
    assert nobody.json()["detail"] == hidden.json()["detail"], "that it exists is nobody's business"
    assert (await other.get()).json()["status"] == "open"


async def test_the_workload_that_started_a_task_sees_and_ends_it(domain: Domain) -> None:
    agent = await domain.agent()
    workload = bearer(await domain.apps["onprem"].mint_workload("me"))
    path = f"/v1/tasks/{agent.task}"
    assert (await agent.client.get(path, headers=workload)).json()["id"] == agent.task
    killed = await agent.client.post(f"{path}/kill", json={"reason": "mine"}, headers=workload)
    assert killed.json()["status"] == "killed"
    assert (await agent.client.get(f"{path}/trace", headers=workload)).status_code == 200, "a workload may look back"


async def test_the_operators_key_sees_and_ends_every_task_of_its_own_host(domain: Domain) -> None:
    agent = await domain.agent()
    await domain.host("aws")
    here, there = (bearer(str(domain.apps[host].house.operator_key)) for host in ("onprem", "aws"))
    path = f"/v1/tasks/{agent.task}"
    assert (await agent.client.get(path, headers=here)).status_code == 200
    assert code(await agent.client.get(path, headers=there)) == "unauthenticated"
    for content in ({"json": {"text": "x"}}, {"content": b"{}"}):
        target = "thoughts" if "json" in content else "checkpoint"
        method = "POST" if "json" in content else "PUT"
        answer = await agent.client.request(method, f"{path}/{target}", headers=here, **content)  # type: ignore[arg-type]
        assert code(answer) == "denied", "it speaks for no agent"
    assert code(await agent.client.get("/v1/actions/x", headers=here)) == "denied"
    assert (await agent.client.post(f"{path}/kill", headers=here)).json()["status"] == "killed"
    trace = (await agent.client.get(f"{path}/trace", headers=here)).json()["records"]
    assert trace[-1]["operation"] == "kill"


async def test_a_person_of_the_operators_group_sees_every_task(identified: Domain, issuer: Issuer) -> None:
    client = await identified.host()
    started = (
        await client.post("/v1/tasks", json={"workflow": "plain"}, headers=bearer(issuer.workload("staff", "someone")))
    ).json()
    path = f"/v1/tasks/{started['task']['id']}"
    olga = issuer.mint("people", {"sub": "olga", "groups": ["platform"]})
    guest = issuer.mint("people", {"sub": "guest", "groups": ["sales"]})
    customer = issuer.customer("shop", "C-7")
    assert (await client.get(path, headers=bearer(olga))).status_code == 200
    for token in (guest, customer):
        assert (await client.get(path, headers=bearer(token))).status_code == 401
    other = bearer(issuer.workload("staff", "other"))
    assert (await client.get(path, headers=other)).status_code == 404
    ended = await client.post(f"{path}/complete", json={"reason": "ok"}, headers=bearer(olga))
    assert ended.json()["status"] == "completed"


async def test_an_issuer_that_is_away_is_not_taken_for_a_bad_token(identified: Domain, issuer: Issuer) -> None:
    client = await identified.host()
    down: set[str] = identified.outbound.inner.down  # type: ignore[attr-defined]  # it is an AsgiOutbound
    down.add("127.0.0.1:9010")
    token = issuer.workload("staff", "someone")
    for answer in (
        await client.post("/v1/tasks", json={"workflow": "plain"}, headers=bearer(token)),
        await client.get("/v1/tasks/t_x", headers=bearer(issuer.mint("people", {"sub": "olga"}))),
    ):
        assert (answer.status_code, code(answer)) == (503, "identity_unavailable")


async def test_a_resume_begins_a_new_run_of_refusals(domain: Domain) -> None:
    agent = await domain.agent()
    for _ in range(RUN_LIMIT - 1):
        await agent.chat(model="nothing")
    agent = heir(agent, await resume(domain, agent))
    await agent.chat(model="nothing")
    assert (await agent.get()).json()["status"] == "open", "the new worker is not suspended for the old one's mistakes"
    for _ in range(RUN_LIMIT - 1):
        await agent.chat(model="nothing")
    assert (await agent.get()).json()["status"] == "suspended", "but for its own"
