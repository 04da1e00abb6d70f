"""What peers must not believe: grants, orders and statements that are forged, stale, meant for others, or too much."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import jwt
import pytest

from buspass.abroad import JWT_BEARER
from buspass.identity.peers import GRANT, ORDER, STATEMENT, child_id
from buspass.ledger import Delegations
from buspass.testing.house import Agent
from buspass.testing.issuer import SigningKey
from buspass.testing.neighbours import Neighbours

CONFIGS = Path(__file__).parents[1] / "data" / "peers"
HOME = "http://127.0.0.1:8700"
AMOUNTS = {"tokens": 20_000, "cost": 200_000, "calls": 5}
STRANGER = SigningKey.make("ES256")


@pytest.fixture
async def both(tmp_path: Path, service: Any) -> AsyncIterator[Neighbours]:
    async with Neighbours(CONFIGS, tmp_path, service) as both:
        yield both


def wish(both: Neighbours, key: str = "k", **changes: Any) -> dict[str, Any]:
    """What a grant of home's says in `buspass`."""
    now = both.clock.now()
    return {
        "host": "onprem", "child": child_id(HOME, "t_parent", key), "allocation": "00" * 8, "workflow": "supply",
        "metadata": {}, "amounts": AMOUNTS, "depth": 1, "level": 1, "until": now + 600_000, "lease": now + 300_000,
        **changes,
    }  # fmt: skip


async def signed(both: Neighbours, kind: Any, ours: Mapping[str, Any], **claims: Any) -> str:
    house, _ = both.houses
    whole = {"txn": "t_parent", "sub": "local:me", "act": {"sub": "local:me"}} | claims
    token: str = await house.peers.sign(house.peers.named("partner"), kind, whole.pop("txn"), ours, **whole)
    return token


async def granted(both: Neighbours, assertion: str) -> httpx.Response:
    client = await both.partner.host("partner")
    return await client.post("/oauth2/token", data={"grant_type": JWT_BEARER, "assertion": assertion})


async def stated(both: Neighbours, statement: str) -> httpx.Response:
    client = await both.home.host("onprem")
    return await client.post("/v1/peers/statements", json={"statement": statement})


def forged(token: str, **changes: Any) -> dict[str, str]:
    """The same claims, proven by nobody: by what is wrong."""
    head, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False}) | changes
    header = jwt.get_unverified_header(token)
    none = base64.urlsafe_b64encode(json.dumps({**header, "alg": "none"}).encode()).rstrip(b"=").decode()
    other = base64.urlsafe_b64encode(json.dumps({**claims, "txn": "t_other"}).encode()).rstrip(b"=").decode()
    stolen = {"typ": header["typ"], "kid": header["kid"]}
    own = {"typ": header["typ"], "kid": STRANGER.kid}
    return {
        "alg none": f"{none}.{body}.",
        "no signature": f"{head}.{body}.",
        "tampered": f"{head}.{other}.{signature}",
        "a stranger's key under a stolen name": jwt.encode(claims, STRANGER.private, "ES256", headers=stolen),
        "a stranger's key": jwt.encode(claims, STRANGER.private, "ES256", headers=own),
    }


# ── grants ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_grant_is_good_for_one_child_alone(both: Neighbours) -> None:
    grant = await signed(both, GRANT, wish(both))
    first, again = await granted(both, grant), await granted(both, grant)
    assert (first.status_code, again.status_code) == (200, 200), first.text
    assert first.json()["task"]["id"] == again.json()["task"]["id"]
    assert first.json()["access_token"] != again.json()["access_token"]
    assert len([name for name in both.states["partner"].dump() if name.startswith("t_")]) == 1
    assert both.pool("partner")[1] == 200_000


OTHERS: Any = [
    {"amounts": {**AMOUNTS, "cost": 300_000}}, {"amounts": {"cost": 100_000}}, {"models": ["draft"]}, {"tools": []},
    {"wall": 60}, {"metadata": {"a": "b"}}, {"workflow": "unlimited"}, {"depth": 0},
]  # fmt: skip


async def test_the_same_child_is_not_had_for_something_else(both: Neighbours) -> None:
    ours = wish(both)
    assert (await granted(both, await signed(both, GRANT, ours))).status_code == 200
    for changes in OTHERS:
        refused = await granted(both, await signed(both, GRANT, {**ours, **changes}))
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_mismatch"), changes


async def test_another_allocation_pays_for_no_second_child(both: Neighbours) -> None:
    ours = wish(both)
    assert (await granted(both, await signed(both, GRANT, ours))).status_code == 200
    refused = await granted(both, await signed(both, GRANT, {**ours, "allocation": "11" * 8}))
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


async def test_a_grant_that_nobody_signed_begins_nothing(both: Neighbours) -> None:
    grant = await signed(both, GRANT, wish(both))
    for what, token in forged(grant).items():
        refused = await granted(both, token)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), what
    assert not [name for name in both.states["partner"].dump() if name.startswith("t_")]


ELSEWHERE: Any = [
    ({"aud": "https://elsewhere.example"}, "for another audience"),
    ({"aud": ["http://127.0.0.1:8800"]}, "for another audience"),
    ({"iss": "https://stranger.example"}, "is no peer of this trust domain"),
    ({"iss": "http://127.0.0.1:8800"}, "is no peer of this trust domain"),
    ({"iat": 1_790_000_000 - 200, "exp": 1_790_000_000 - 100}, "expired"),
    ({"exp": 1_790_000_000 + 301}, "good for longer than 300 s"),
    ({"iat": 1_790_000_000 + 100, "exp": 1_790_000_000 + 160}, "in the future"),
    ({"exp": None}, "exp is missing"),
]


async def test_a_grant_for_others_or_of_another_time_begins_nothing(both: Neighbours) -> None:
    for claims, said in ELSEWHERE:
        refused = await granted(both, await signed(both, GRANT, wish(both), **claims))
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), claims
        assert said in refused.json()["detail"]


async def test_another_kind_of_token_is_no_grant(both: Neighbours) -> None:
    kinds: tuple[Any, ...] = (ORDER, STATEMENT, "at+jwt", "JWT", "txntoken+jwt")
    for kind in kinds:
        refused = await granted(both, await signed(both, kind, wish(both)))
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), kind


async def test_a_peer_names_no_task_but_its_own_children(both: Neighbours) -> None:
    for child in (child_id("https://stranger.example", "t_parent", "k"), "t_" + "a" * 24):
        refused = await granted(both, await signed(both, GRANT, wish(both, child=child)))
        assert (refused.status_code, refused.json()["code"]) == (403, "denied")


WRONG: Any = [
    {"allocation": "x"}, {"allocation": None}, {"host": "../x"}, {"child": "t_" + "A" * 40}, {"child": 7},
    {"amounts": {"cost": -1}}, {"amounts": {"cost": 1.5}}, {"amounts": {"cost": True}}, {"amounts": {"gold": 1}},
    {"amounts": {"cost": 2**41}}, {"amounts": []}, {"depth": -1}, {"depth": 1000}, {"level": "1"}, {"until": -5},
    {"until": 2**60}, {"lease": None}, {"wall": 0}, {"wall": "60"}, {"models": "plan"}, {"tools": [1]},
    {"models": ["plan"] * 201},
    {"metadata": []}, {"metadata": {"a": {}}}, {"subject": "customer"}, {"subject": {"type": "customer"}},
    {"subject": {"type": "customer", "id": "C-1"}}, {"workflow": ""}, {"models": ["gpt-9"]}, {"tools": ["refund"]},
    {"amounts": {**AMOUNTS, "cost": 600_000}},
]  # fmt: skip


async def test_a_grant_that_says_nonsense_or_too_much_is_refused(both: Neighbours) -> None:
    for changes in WRONG:
        refused = await granted(both, await signed(both, GRANT, wish(both, **changes)))
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request"), (changes, refused.text)
    assert not [name for name in both.states["partner"].dump() if name.startswith("t_")]


async def test_nothing_of_a_child_outlasts_what_its_grant_says(both: Neighbours) -> None:
    now = both.clock.now()
    ours = wish(both, until=now + 60_000, lease=now + 10**9, depth=90)
    task = (await granted(both, await signed(both, GRANT, ours))).json()["task"]
    assert task["budget"]["limits"]["wall"] == 60
    assert task["budget"]["limits"]["depth"] == 2, "the workflow's"
    assert both.head(task["id"])["expires_at"] == now + 60_000
    late = await granted(both, await signed(both, GRANT, wish(both, "late", until=now)))
    assert (late.status_code, late.json()["code"]) == (403, "task_expired")
    long = wish(both, "long", until=now + 10**9, lease=now + 10**9)
    other = (await granted(both, await signed(both, GRANT, long))).json()["task"]
    assert both.head(other["id"])["expires_at"] == now + 300_000, "no lease is longer than a lease"


# ── statements ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def word(both: Neighbours, parent: Agent, task: str, used: Mapping[str, int], **changes: Any) -> str:
    """The partner's own signed word for how a child ended, as it likes."""
    _, there = both.houses
    (entry,) = [each for each in both.head(parent.task)["children"].values() if each["task"] == task]
    ours = {
        "host": "onprem", "child": task, "allocation": entry["attempt"], "state": "ended", "status": "completed",
        "used": dict(used), "as_of": 5, **changes,
    }  # fmt: skip
    token: str = await there.peers.sign(there.peers.named("home"), STATEMENT, parent.task, ours)
    return token


async def test_a_statement_that_no_peer_signed_gives_nothing_back(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    token = await word(both, parent, child.task, {})
    before = both.head(parent.task)
    for what, each in forged(token).items():
        refused = await stated(both, each)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), what
    assert both.head(parent.task) == before
    assert (await stated(both, token)).status_code == 200
    assert both.head(parent.task)["children"] == {}


async def test_another_peer_settles_nothing_of_this_one(both: Neighbours) -> None:
    """`nowhere` is a peer as well, and signs with its own key: its word is good for its own children only."""
    parent = await both.home.agent()
    child = await both.child(parent)
    token = await word(both, parent, child.task, {})
    claims = jwt.decode(token, options={"verify_signature": False}) | {"iss": "http://127.0.0.1:8899"}
    issuer = "http://127.0.0.1:8899"
    both.network(both.home).apps["127.0.0.1:8899"] = published(issuer)
    foreign = jwt.encode(claims, STRANGER.private, "ES256", headers={"typ": STATEMENT, "kid": STRANGER.kid})
    before = both.head(parent.task)
    assert (await stated(both, foreign)).status_code == 200, "it is heard, and means nothing"
    assert both.head(parent.task) == before
    assert (await child.post("complete")).status_code == 200
    assert both.head(parent.task)["children"] == {}
    settled = both.head(parent.task)
    worse = claims["buspass"] | {"as_of": 99, "used": {"cost": 200_000}}
    foreign = jwt.encode(
        claims | {"buspass": worse}, STRANGER.private, "ES256", headers={"typ": STATEMENT, "kid": STRANGER.kid}
    )
    assert (await stated(both, foreign)).status_code == 200
    assert both.head(parent.task) == settled


def published(issuer: str) -> Any:
    """What an issuer publishes."""
    documents = {
        "/.well-known/openid-configuration": {"issuer": issuer, "jwks_uri": f"{issuer}/keys"},
        "/keys": {"keys": [STRANGER.jwk]},
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        del receive
        body = json.dumps(documents[scope["path"]]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return app


async def test_a_peer_lies_about_what_it_got_and_about_nothing_else(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    huge = {"cost": 10**12, "tokens": 10**12, "calls": 10**9, "tool_calls": 10**9}
    assert (await stated(both, await word(both, parent, child.task, huge))).status_code == 200
    head = both.head(parent.task)
    assert head["children"] == {}
    assert (head["available"]["cost"], head["available"]["tokens"]) == (800_000, 80_000)
    assert head["available"]["tool_calls"] == 2**53 - 1, "nothing of it was handed over"
    await both.sound(both.home, parent.task)


async def test_a_statement_that_says_nonsense_is_refused(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    nonsense: Any = ({"cost": -5}, {"cost": 1.5}, {"gold": 1}, {"cost": 2**60}, {"cost": True})
    for used in nonsense:
        refused = await stated(both, await word(both, parent, child.task, used))
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request"), used
    assert both.head(parent.task)["children"] != {}


async def test_an_older_statement_is_not_heard_after_a_newer_one(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    words = [
        await word(both, parent, child.task, {"cost": cost}, as_of=as_of)
        for as_of, cost in ((5, 100_000), (7, 60_000), (6, 10_000), (7, 5), (4, 0), (8, 200_001), (9, 0))
    ]
    spent = []
    for each in (*words[:2], words[0], *words[2:]):
        assert (await stated(both, each)).status_code == 200
        spent.append(both.spent(parent.task))
    assert spent == [100_000, 60_000, 60_000, 60_000, 60_000, 60_000, 60_000, 0], "what came back may be spent by now"
    assert both.head(parent.task)["available"]["cost"] == 1_000_000
    await both.sound(both.home, parent.task)


async def test_a_peer_fills_no_journal_with_corrections(both: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[Delegations.__module__], "CORRECTIONS", 3)
    parent = await both.home.agent()
    child = await both.child(parent)
    words = [await word(both, parent, child.task, {"cost": 500 - n}, as_of=n) for n in range(1, 8)]
    for each in words:
        assert (await stated(both, each)).status_code == 200
    assert len([key for key in both.items(parent.task) if key.startswith("credit:")]) == 3
    assert both.spent(parent.task) == 499 - 3


async def test_a_statement_for_what_is_not_there_changes_nothing(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    before = both.states["home"].dump()
    for changes in ({"allocation": "11" * 8}, {"child": child_id(HOME, parent.task, "other")}):
        assert (await stated(both, await word(both, parent, child.task, {}, **changes))).status_code == 200
    _, there = both.houses
    ours = {"host": "onprem", "child": child.task, "allocation": "11" * 8, "state": "void", "status": "", "used": {},
            "as_of": 0}  # fmt: skip
    token = await there.peers.sign(there.peers.named("home"), STATEMENT, "t_" + "a" * 24, ours)
    assert (await stated(both, token)).status_code == 200
    unknown = await stated(both, await word(both, parent, child.task, {}, host="nowhere"))
    assert (unknown.status_code, unknown.json()["code"]) == (403, "denied")
    assert both.states["home"].dump() == before


async def test_what_peers_are_answered_fits_what_is_described(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    client = await both.partner.host("partner")
    document = (await client.get("/openapi.json")).json()
    (entry,) = both.head(parent.task)["children"].values()
    ours = {"host": "onprem", "child": child.task, "allocation": entry["attempt"], "until": 0, "kill": False,
            "bury": False}  # fmt: skip
    order = {"order": await signed(both, ORDER, ours, txn=parent.task)}
    answers = {
        "/v1/peers/orders": (order, await client.post("/v1/peers/orders", json=order)),
        "/v1/peers/statements": (
            (statement := {"statement": await word(both, parent, child.task, {})}),
            await (await both.home.host("onprem")).post("/v1/peers/statements", json=statement),
        ),
    }
    for path, (body, answer) in answers.items():
        assert answer.status_code == 200, answer.text
        operation = document["paths"][path]["post"]
        sent = operation["requestBody"]["content"]["application/json"]["schema"]
        got = operation["responses"]["200"]["content"]["application/json"]["schema"]
        for schema, value in ((sent, body), (got, answer.json())):
            jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


async def test_orders_are_for_the_domain_that_handed_over_alone(both: Neighbours) -> None:
    parent = await both.home.agent()
    child = await both.child(parent)
    client = await both.partner.host("partner")
    (entry,) = both.head(parent.task)["children"].values()
    ours = {"host": "onprem", "child": child.task, "allocation": entry["attempt"], "until": 0, "kill": True,
            "bury": False}  # fmt: skip
    good = await signed(both, ORDER, ours, txn=parent.task)
    for what, token in forged(good).items():
        refused = await client.post("/v1/peers/orders", json={"order": token})
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated"), what
    own = await both.partner.agent("partner", "own")
    stray = await client.post(
        "/v1/peers/orders", json={"order": await signed(both, ORDER, {**ours, "child": own.task})}
    )
    assert (stray.status_code, stray.json()["code"]) == (403, "denied")
    other = await signed(both, ORDER, ours, txn="t_other")
    answer = await client.post("/v1/peers/orders", json={"order": other})
    said = jwt.decode(answer.json()["statement"], options={"verify_signature": False})
    assert said["buspass"]["state"] == "void", "no child of that parent"
    assert both.head(child.task)["status"] == "open"
    assert (await client.post("/v1/peers/orders", json={"order": good})).status_code == 200
    assert both.head(child.task)["status"] == "killed"


async def test_a_peer_fills_no_store_with_graves(both: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buspass.identity.peers.BURIALS", 3)
    client = await both.partner.host("partner")

    async def bury(number: int) -> tuple[int, str]:
        child = wish(both, f"k{number}")["child"]
        ours = {"host": "onprem", "child": child, "allocation": "00" * 8, "until": 0, "kill": False, "bury": True}
        order = await signed(both, ORDER, ours, txn="t_parent")
        answer = await client.post("/v1/peers/orders", json={"order": order})
        return answer.status_code, answer.json().get("code", "buried")

    assert [await bury(number) for number in range(5)] == [(200, "buried")] * 3 + [(503, "overloaded")] * 2
    assert await bury(0) == (200, "buried"), "the grave is there"
    both.advance(2)
    assert [await bury(number) for number in (3, 4, 5)] == [(200, "buried")] * 2 + [(503, "overloaded")]
    assert len([name for name in both.states["partner"].dump() if name.startswith("t_")]) == 5


async def test_no_token_is_no_order_and_no_statement(both: Neighbours) -> None:
    client = await both.partner.host("partner")
    bodies: Any = ({}, {"order": 1}, {"order": "x", "more": 1}, {"order": "a.b.c"}, {"statement": ""})
    for path in ("orders", "statements"):
        for body in bodies:
            refused = await client.post(f"/v1/peers/{path}", json=body)
            assert refused.status_code in {400, 401}, (path, body)


async def test_without_the_peers_keys_nothing_is_believed(both: Neighbours) -> None:
    """The grant is genuine; whoever can't see that lets nothing begin."""
    both.network(both.partner).down.add("127.0.0.1:8700")
    refused = await granted(both, await signed(both, GRANT, wish(both)))
    assert (refused.status_code, refused.json()["code"]) == (503, "identity_unavailable")


async def test_a_form_without_an_assertion_is_refused(both: Neighbours) -> None:
    client = await both.partner.host("partner")
    refused = await client.post("/oauth2/token", data={"grant_type": JWT_BEARER})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
