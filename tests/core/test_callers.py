"""Whose token it is decides the claims in it, never its type alone; and what each caller is told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from buspass.testing.house import Domain
from buspass.testing.issuer import Issuer


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_an_operator_key_with_letters_beyond_ascii_is_another_key(domain: Domain, header: str) -> None:
    client = await domain.host()
    sent = {header: ("Bearer " if header == "authorization" else "").encode() + "bpo_ü".encode("latin-1")}
    answer = await client.get("/v1/tasks", headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize("typ", ["JWT", "at+jwt", "application/at+jwt"])
async def test_a_workload_whose_issuer_follows_rfc_9068_sees_what_it_started(
    identified: Domain, issuer: Issuer, typ: str
) -> None:
    client = await identified.host()
    token = issuer.mint("staff", {"azp": "returns", "tid": "t"}, headers={"typ": typ})
    started = await client.post("/v1/tasks", json={"workflow": "plain"}, headers=bearer(token))
    assert started.status_code == 201, started.text
    listed = await client.get("/v1/tasks", headers=bearer(token))
    assert listed.status_code == 200, listed.text
    assert [row["id"] for row in listed.json()["data"]] == [started.json()["task"]["id"]]


async def test_a_task_token_is_no_workload_whoever_says_so(identified: Domain, issuer: Issuer) -> None:
    client = await identified.host()
    house = identified.apps["onprem"].house
    for claims in ({"buspass": {"fence": 1}}, {"iss": house.settings.issuer}):
        token = issuer.mint("staff", {"azp": "returns", **claims}, headers={"typ": "at+jwt"})
        answer = await client.get("/v1/tasks", headers=bearer(token))
        assert answer.status_code == 401
        assert "task token" in answer.json()["detail"]


async def test_who_is_no_agent_is_told_where_to_read_actions(domain: Domain) -> None:
    agent = await domain.agent()
    done = (await agent.call("item", {"id": "1"})).json()["action"]
    app = domain.apps["onprem"]
    for token in (str(app.house.operator_key), await app.mint_workload("me")):
        for path in ("/v1/actions", f"/v1/actions/{done}"):
            answer = await agent.client.get(path, headers=bearer(token))
            assert (answer.status_code, answer.json()["code"]) == (403, "denied")
            assert "/trace" in answer.json()["detail"]


async def test_actions_of_a_killed_task_are_closed_to_its_token(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.post("kill")
    answer: httpx.Response = await agent.client.get("/v1/actions", headers=agent.headers)
    found: Any = answer.json()
    assert (answer.status_code, found["code"]) == (403, "task_killed")
