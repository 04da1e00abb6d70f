"""How a task begins: who may start what, on whose behalf, with which budget; and every start that is refused."""

from __future__ import annotations

from typing import Any

import httpx
import jwt
import pytest

from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.testing.issuer import Issuer


def code(response: httpx.Response) -> str:
    return str(response.json()["code"])


async def start(domain: Domain, body: Any, *, host: str = "onprem", agent: str = "me", **headers: str) -> Any:
    client = await domain.host(host)
    token = await domain.apps[host].mint_workload(agent)
    return await client.post("/v1/tasks", json=body, headers={"authorization": f"Bearer {token}", **headers})


async def begin(domain: Domain, issuer: Issuer, body: Any, agent: str = "returns") -> httpx.Response:
    """Start at the domain with real issuers."""
    client = await domain.host()
    headers = {"authorization": f"Bearer {issuer.workload('staff', agent)}"}
    return await client.post("/v1/tasks", json=body, headers=headers)


async def test_a_started_task_is_shown_whole_with_its_token_and_where_to_call(domain: Domain) -> None:
    answer = await start(domain, {"workflow": "work", "metadata": {"ticket": "T-1", "n": 1, "vip": True}})
    assert answer.status_code == 201
    started = answer.json()
    task = started["task"]
    assert answer.headers["location"] == f"/v1/tasks/{task['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert started["base_url"] == "http://127.0.0.1:8700/v1"
    assert started["expires_in"] == 600, "the task ends before the token's hour"
    assert task["status"] == "open"
    assert task["principal"]["agent"] == "me"
    assert task["subject"] is None
    assert task["metadata"] == {"ticket": "T-1", "n": 1, "vip": True}
    assert task["grant"] == {"models": ["plan", "backed"], "tools": ["item", "check", "pay"]}
    limits = {"tokens": 100_000, "cost": 1.0, "calls": 100, "wall": 600.0, "depth": 2}
    assert task["budget"]["limits"] == limits
    nothing = {"tokens": 0, "cost": 0, "calls": 0, "model_calls": 0, "tool_calls": 0}
    for part in ("spent", "held", "allocated"):
        assert task["budget"][part] == nothing
    assert task["budget"]["available"] == {"tokens": 100_000, "cost": 1.0, "calls": 100}
    assert (task["fence"], task["host"]) == (1, "onprem")
    assert task["revision"] == domain.apps["onprem"].house.settings.revision
    assert task["created_at"].endswith("Z")


async def test_the_token_says_what_the_contract_promises(domain: Domain) -> None:
    started = (await start(domain, {"workflow": "work"})).json()
    claims = jwt.decode(started["token"], options={"verify_signature": False})
    header = jwt.get_unverified_header(started["token"])
    now = domain.clock.now() // 1000
    task = started["task"]
    assert (header["alg"], header["typ"]) == ("ES256", "at+jwt")
    assert claims.pop("jti")
    assert claims == {
        "iss": "http://127.0.0.1:8700",
        "aud": "http://127.0.0.1:8700",
        "iat": now,
        "exp": now + 600,
        "client_id": "me",
        "sub": "local:me",
        "act": {"sub": "local:me"},
        "txn": task["id"],
        "scope": "models tools",
        "buspass": {"workflow": "work", "rev": task["revision"], "fence": 1},
    }


async def test_a_token_lives_an_hour_at_most(domain: Domain) -> None:
    started = (await start(domain, {"workflow": "work", "budget": {"wall": 30}})).json()
    assert started["expires_in"] == 30
    assert started["task"]["expires_at"] == "2026-09-21T14:13:50.000Z"


@pytest.mark.parametrize(
    ("body", "problem", "path"),
    [
        ({}, "invalid_request", "workflow"),
        ({"workflow": 7}, "invalid_request", "workflow"),
        ({"workflow": None}, "invalid_request", "workflow"),
        ({"workflow": "nope"}, "not_found", "workflow"),
        ({"workflow": "work", "color": "red"}, "unsupported", "color"),
        ({"workflow": "work", "grant": {}}, "unsupported", "grant"),
        ({"workflow": "work", "on_behalf_of": {"type": "c", "id": "1"}}, "invalid_request", None),
        ({"workflow": "work", "metadata": []}, "invalid_request", "metadata"),
        ({"workflow": "work", "metadata": {"a": {}}}, "invalid_request", "metadata.a"),
        ({"workflow": "work", "metadata": {"a": None}}, "invalid_request", "metadata.a"),
        ({"workflow": "work", "metadata": {"a": "x" * 4096}}, "invalid_request", None),
        ({"workflow": "work", "budget": 1}, "invalid_request", "budget"),
        ({"workflow": "work", "budget": {"cost": 1.01}}, "invalid_request", "budget.cost"),
        ({"workflow": "work", "budget": {"tokens": 100_001}}, "invalid_request", "budget.tokens"),
        ({"workflow": "work", "budget": {"tokens": 1.5}}, "invalid_request", "budget.tokens"),
        ({"workflow": "work", "budget": {"tokens": -1}}, "invalid_request", "budget.tokens"),
        ({"workflow": "work", "budget": {"tokens": True}}, "invalid_request", "budget.tokens"),
        ({"workflow": "work", "budget": {"cost": "1"}}, "invalid_request", "budget.cost"),
        ({"workflow": "work", "budget": {"cost": 2**40}}, "invalid_request", "budget.cost"),
        ({"workflow": "work", "budget": {"wall": 601}}, "invalid_request", "budget.wall"),
        ({"workflow": "work", "budget": {"wall": 0}}, "invalid_request", "budget.wall"),
        ({"workflow": "work", "budget": {"wall": 0.5}}, "invalid_request", "budget.wall"),
        ({"workflow": "work", "budget": {"depth": 1}}, "unsupported", "budget.depth"),
        ({"workflow": "work", "budget": {"euros": 1}}, "unsupported", "budget.euros"),
        ([], "invalid_request", None),
        ("work", "invalid_request", None),
    ],
)
async def test_a_bad_start_is_refused_with_the_row_to_mend(
    domain: Domain, body: Any, problem: str, path: str | None
) -> None:
    answer = await start(domain, body)
    assert code(answer) == problem, answer.text
    if path is not None:
        assert answer.json()["errors"][0]["path"] == path
    client = await domain.host()
    operator = {"authorization": f"Bearer {domain.apps['onprem'].house.operator_key}"}
    assert (await client.get("/v1/tasks", headers=operator)).json()["data"] == [], "no task was begun"


async def test_an_answer_does_not_grow_with_the_nonsense_that_was_sent(domain: Domain) -> None:
    fields = {f"field-{n}": 1 for n in range(2000)}
    for body in ({"workflow": "work", **fields}, {"workflow": "w" * 100_000}, {"workflow": "work", "x" * 50_000: 1}):
        answer = await start(domain, body)
        assert answer.status_code in {404, 422}
        assert len(answer.content) < 60_000


async def test_a_budget_that_narrows_is_taken_to_the_micro_dollar(domain: Domain) -> None:
    narrow = {"tokens": 500, "cost": 0.000001, "calls": 3, "model_calls": 2, "tool_calls": 1, "wall": 60}
    limits = (await start(domain, {"workflow": "work", "budget": narrow})).json()["task"]["budget"]["limits"]
    assert limits == {**narrow, "depth": 2}


async def test_a_repeated_start_with_its_key_is_the_same_task_on_every_host(domain: Domain) -> None:
    key = {"idempotency-key": "order-17"}
    body = {"workflow": "work", "metadata": {"a": 1}}
    first = await start(domain, body, **key)
    again = await start(domain, body, host="aws", **key)
    assert again.status_code == 201
    assert again.json()["task"]["id"] == first.json()["task"]["id"]
    mismatch = await start(domain, {"workflow": "work"}, **key)
    assert (mismatch.status_code, code(mismatch)) == (422, "idempotency_mismatch")
    other = await start(domain, body, agent="other", **key)
    assert other.json()["task"]["id"] != first.json()["task"]["id"], "a key is its workload's own"
    assert (await start(domain, body)).json()["task"]["id"] != first.json()["task"]["id"]


async def test_a_repeated_start_does_not_give_back_what_a_resume_took_away(domain: Domain) -> None:
    key = {"idempotency-key": "k"}
    first = (await start(domain, {"workflow": "work"}, **key)).json()
    client = await domain.host()
    token = await domain.apps["onprem"].mint_workload("me")
    resume = f"/v1/tasks/{first['task']['id']}/resume"
    assert (await client.post(resume, headers={"authorization": f"Bearer {token}"})).status_code == 200
    again = await start(domain, {"workflow": "work"}, **key)
    assert (again.status_code, code(again)) == (409, "fenced")


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
async def test_a_bad_key_starts_nothing(domain: Domain, key: str) -> None:
    answer = await start(domain, {"workflow": "work"}, **{"idempotency-key": key})
    assert code(answer) == "invalid_request"


# ── real issuers ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_customers_own_token_proves_the_subject(identified: Domain, issuer: Issuer) -> None:
    behalf = {"token": issuer.customer("shop", "C-7")}
    answer = await begin(identified, issuer, {"workflow": "returns", "on_behalf_of": behalf})
    assert answer.status_code == 201, answer.text
    task = answer.json()["task"]
    assert task["subject"] == {"type": "customer", "id": "C-7", "proof": "token"}
    assert task["principal"] == {
        "identity": "staff",
        "issuer": "http://127.0.0.1:9010/staff",
        "agent": "returns",
        "claims": {"agent": "returns", "tenant": "t-local"},
    }
    claims = jwt.decode(answer.json()["token"], options={"verify_signature": False})
    assert (claims["sub"], claims["act"]) == ("customer:C-7", {"sub": "staff:returns"})


@pytest.mark.parametrize(("agent", "status"), [("returns", 201), ("backup-2", 201), ("refunds", 403), ("Returns", 403)])
async def test_only_the_agents_of_a_workflow_may_start_it(
    identified: Domain, issuer: Issuer, agent: str, status: int
) -> None:
    behalf = {"token": issuer.customer("shop", "C-7")}
    answer = await begin(identified, issuer, {"workflow": "returns", "on_behalf_of": behalf}, agent)
    assert answer.status_code == status
    if status == 403:
        assert (code(answer), answer.json()["reasons"]) == ("denied", ["agent"])


@pytest.mark.parametrize(
    ("workflow", "behalf", "status", "reason"),
    [
        ("returns", None, 400, None),
        ("returns", "C-7", 400, None),
        ("returns", {}, 400, None),
        ("returns", {"token": 7}, 400, None),
        ("returns", {"token": "x", "id": "C-7"}, 400, None),
        ("returns", {"type": "customer", "id": "C-7"}, 403, "subject_unproven"),
        ("returns", {"token": "garbage"}, 401, None),
        ("asserted", {"type": "customer", "id": "C-7"}, 201, None),
        ("asserted", {"type": "rep", "id": "R-1"}, 201, None),
        ("asserted", {"type": "admin", "id": "A-1"}, 403, "subject_type"),
        ("asserted", {"type": "customer", "id": ""}, 400, None),
        ("asserted", {"type": "customer", "id": "x" * 257}, 400, None),
        ("asserted", {"type": "customer", "id": "a\nb"}, 400, None),
        ("asserted", {"type": "customer", "id": 7}, 400, None),
        ("plain", {"type": "customer", "id": "C-7"}, 400, None),
    ],
)
async def test_on_whose_behalf_is_proven_or_refused(
    identified: Domain, issuer: Issuer, workflow: str, behalf: Any, status: int, reason: str | None
) -> None:
    body = {"workflow": workflow} if behalf is None else {"workflow": workflow, "on_behalf_of": behalf}
    answer = await begin(identified, issuer, body)
    assert answer.status_code == status, answer.text
    if reason:
        assert answer.json()["reasons"] == [reason]


async def test_a_customers_token_proves_one_where_a_claim_would_do(identified: Domain, issuer: Issuer) -> None:
    behalf = {"token": issuer.customer("shop", "C-7")}
    answer = await begin(identified, issuer, {"workflow": "asserted", "on_behalf_of": behalf})
    assert answer.json()["task"]["subject"]["proof"] == "token"


async def test_no_bad_token_of_a_workload_starts_anything(identified: Domain, issuer: Issuer) -> None:
    client = await identified.host()
    for name, token in issuer.bad("staff", sub="returns", azp="returns").items():
        answer = await client.post(
            "/v1/tasks", json={"workflow": "plain"}, headers={"authorization": f"Bearer {token}"}
        )
        assert (name, answer.status_code, code(answer)) == (name, 401, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="buspass"'


async def test_no_bad_token_of_a_customer_proves_a_subject(identified: Domain, issuer: Issuer) -> None:
    for name, token in issuer.bad("shop", sub="C-7").items():
        answer = await begin(identified, issuer, {"workflow": "returns", "on_behalf_of": {"token": token}})
        assert (name, answer.status_code) == (name, 401)
    workload = {"token": issuer.workload("staff", "returns")}
    answer = await begin(identified, issuer, {"workflow": "returns", "on_behalf_of": workload})
    assert answer.status_code == 401, "a workload proves no subject"
    client = await identified.host()
    customer = {"authorization": f"Bearer {issuer.customer('shop', 'C-7')}"}
    assert (await client.post("/v1/tasks", json={"workflow": "plain"}, headers=customer)).status_code == 401


async def test_an_expired_proof_is_no_proof(identified: Domain, issuer: Issuer, clock: FakeClock) -> None:
    behalf = {"token": issuer.customer("shop", "C-7")}
    clock.advance(3600 + 6)
    answer = await begin(identified, issuer, {"workflow": "returns", "on_behalf_of": behalf})
    assert answer.status_code == 401
    assert "expired" in answer.json()["detail"]


async def test_a_task_token_starts_nothing(domain: Domain) -> None:
    agent = await domain.agent()
    answer = await agent.client.post("/v1/tasks", json={"workflow": "work"}, headers=agent.headers)
    assert (answer.status_code, code(answer)) == (401, "unauthenticated")
