"""The surface: what it says of itself is what it does; health, keys, ends of connections; how a host comes up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import jwt
import pytest

from buspass.errors import ConfigError
from buspass.http import compose, start
from buspass.http.adapters import ADAPTERS, adapter, opened
from buspass.http.app import ROUTES
from buspass.http.compose import composed
from buspass.model import Limits
from buspass.ports.state import Delete, Put
from buspass.testing.blobs_memory import MemoryBlobs
from buspass.testing.house import DOMAIN_KEY, LIMITS, Agent, Domain
from buspass.testing.state_memory import MemoryState

CONFIG = Path(__file__).parents[1] / "data" / "domain" / "buspass.yaml"
ASKED = {"model": "plan", "messages": [{"role": "user", "content": "x"}]}


async def described(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/openapi.json")).json()
    return document


# ── the description ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_description_has_every_route_once_and_no_other(domain: Domain) -> None:
    document = await described(await domain.host())
    assert document["openapi"] == "3.1.0"
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == {(row.method, row.path.replace(":path", "")) for row in ROUTES}
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for row in ROUTES:
        operation = document["paths"][row.path.replace(":path", "")][row.method.lower()]
        assert ("security" in operation) is (row.who not in {"anyone", "peer"})
        parameters = {given["name"] for given in operation.get("parameters", ()) if given["in"] == "path"}
        assert parameters == set(re.findall(r"{(\w+)(?::path)?}", row.path))
        assert ("requestBody" in operation) is bool(row.sends)


async def test_every_reference_of_the_description_leads_somewhere(domain: Domain) -> None:
    client = await domain.host()
    document = await described(client)
    text = (await client.get("/openapi.json")).text
    schemas = document["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) == set(schemas)
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


async def key_answers(domain: Domain, client: httpx.AsyncClient) -> Mapping[str, httpx.Response]:
    operator = {"headers": {"authorization": f"Bearer {domain.apps['onprem'].house.operator_key}"}}
    made = await client.post("/v1/keys", json={"name": "bot", "workflow": "work"}, **operator)
    return {
        **{
            row.handler: await client.get(row.path.replace("{workflow}", "work"), **operator)
            for row in ROUTES
            if (row.method, row.who) == ("GET", "operator")
        },
        "new": made,
        "rotate": await client.post(f"/v1/keys/{made.json()['id']}/rotate", **operator),
        "revoke": await client.post(f"/v1/keys/{made.json()['id']}/revoke", **operator),
    }


async def every_answer(domain: Domain, agent: Agent) -> Mapping[str, httpx.Response]:
    """One good request to every route, by its handler's name."""
    client, own = agent.client, {"headers": agent.headers}
    workload = {"authorization": f"Bearer {await domain.apps['onprem'].mint_workload('me')}"}
    operator = {"authorization": f"Bearer {domain.apps['onprem'].house.operator_key}"}
    task = f"/v1/tasks/{agent.task}"
    answers = {
        "start": await client.post("/v1/tasks", json={"workflow": "work"}, headers=workload),
        "messages": await client.post("/v1/messages", json={**ASKED, "max_tokens": 9}, **own),
        **{
            row.handler: await client.post(row.path.replace("{alias:path}", "plan"), json=ASKED, **own)
            for row in ROUTES
            if row.section == "Models" and row.method == "POST" and row.handler != "messages"
        },
        "act": await agent.call("item", {"id": "1"}),
        "think": await client.post(f"{task}/thoughts", json={"text": "hm"}, **own),
        "delegate": await client.post(f"{task}/tasks", json={"budget": {"tokens": 5, "cost": 0.01, "calls": 1}}, **own),
        "save": await client.put(f"{task}/checkpoint", json={"at": 1}, **own),
    }
    action = answers["act"].json()["action"]
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": agent.token,
        "actor_token": workload["authorization"].removeprefix("Bearer "),
    }
    answers["token"] = await client.post("/oauth2/token", data=form)
    answers |= await key_answers(domain, client)
    answers["action"] = await client.get(f"/v1/actions/{action}", **own)
    for row in ROUTES:
        if row.method == "GET" and row.handler not in answers:
            asks = {"headers": operator} if row.who == "operator" else own
            path = row.path.replace("{id}", agent.task).replace("{workflow}", "work")
            answers[row.handler] = await client.get(path, **asks)
    answers["suspend"] = await client.post(f"{task}/suspend", json={"reason": "a"}, **own)
    answers["resume"] = await client.post(f"{task}/resume", headers=workload)
    resumed = {"authorization": f"Bearer {answers['resume'].json()['token']}"}
    answers["complete"] = await client.post(f"/v1/tasks/{(await domain.agent()).task}/complete", headers=workload)
    answers["kill"] = await client.post(f"{task}/kill", headers=resumed)
    stop = {"tool": "sealed", "reason": "a"}
    answers["order"] = await client.post("/v1/stops", json=stop, headers=operator)
    answers["lift"] = await client.delete(f"/v1/stops/{answers['order'].json()['id']}?reason=a", headers=operator)
    return answers


async def test_what_is_answered_fits_what_is_described(domain: Domain) -> None:
    agent = await domain.agent()
    document = await described(agent.client)
    answers = await every_answer(domain, agent)
    rows = [row for row in ROUTES if row.who != "peer"]  # those are asked in test_peers_forged.py
    assert set(answers) == {row.handler for row in rows}, "every route was asked"
    for row in rows:
        answer = answers[row.handler]
        assert answer.status_code == row.status, (row.handler, answer.text)
        operation = document["paths"][row.path.replace(":path", "")][row.method.lower()]
        schema = operation["responses"][str(row.status)]
        reference = schema["content"]["application/json"]["schema"]
        validator = jsonschema_rs.Draft202012Validator(
            {**reference, "components": document["components"]}, validate_formats=True
        )
        validator.validate(answer.json())
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"


async def test_what_is_described_is_what_is_taken(domain: Domain) -> None:
    """A body that the description refuses, the route refuses too."""
    agent = await domain.agent()
    document = await described(agent.client)
    for name, bad in {
        "Start": {"workflow": "work", "x": 1},
        "Reason": {"reason": 1},
        "Thought": {"text": "x", "y": 1},
        "ToolCall": {"arguments": {}, "z": 1},
    }.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        assert not jsonschema_rs.Draft202012Validator(schema).is_valid(bad)


# ── health, published documents ─────────────────────────────────────────────────────────────────────────────────────


async def test_a_host_is_ready_while_its_store_answers(domain: Domain) -> None:
    client = await domain.host()
    ready = await client.get("/health/ready")
    revision = domain.apps["onprem"].house.settings.revision
    assert ready.json() == {
        "status": "ok",
        "host": "onprem",
        "revision": revision,
        "checks": {"state": "ok", "keys": "ok"},
    }
    domain.state.inner.down = True  # type: ignore[attr-defined]  # it is a MemoryState
    away = await client.get("/health/ready")
    assert (away.status_code, away.json()["status"]) == (503, "unavailable")
    assert (await client.get("/health/live")).status_code == 200


async def test_a_host_whose_key_nobody_can_know_is_not_ready(domain: Domain) -> None:
    client = await domain.host()
    ((name, row),) = await domain.state.list("domain", "jwk:", "", 10)
    await domain.state.apply("domain", [Delete(name, ())])
    for _ in range(2):
        lost = await client.get("/health/ready")
        assert (lost.status_code, lost.json()["checks"]["state"]) == (503, "ok")
        assert "public key" in lost.json()["checks"]["keys"]
        await domain.state.apply("domain", [Put(name, {**row, "mac": "forged"})])


class Opened:
    """A part that a host opened."""

    def __init__(self) -> None:
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("fails", ["blobs", "publish", "house", "routed"])
async def test_a_host_that_does_not_come_up_closes_what_it_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    parts: list[Opened] = []

    async def opened(port: str, url: str) -> Opened:
        if port == fails:
            raise ConfigError(["no"])
        parts.append(Opened())
        return parts[-1]

    async def publish(keyring: Any) -> None:
        if fails == "publish":
            raise ConfigError(["no"])

    def broken(*_: Any, **__: Any) -> Any:
        raise ConfigError(["no"])

    monkeypatch.setattr(compose, "opened", opened)
    monkeypatch.setattr(compose.Keyring, "publish", publish)
    if fails in {"house", "routed"}:
        monkeypatch.setattr(compose, {"house": "_builder", "routed": "routed"}[fails], broken)
    with pytest.raises(ConfigError):
        await composed(environ(tmp_path), LIMITS)
    assert [part.closed for part in parts] == [1] * {"blobs": 1}.get(fails, 2)


async def test_every_host_publishes_the_keys_of_all(domain: Domain) -> None:
    here, there = await domain.host(), await domain.host("aws")
    documents = [(await client.get("/.well-known/jwks.json")).json()["keys"] for client in (here, there)]
    assert documents[0] == documents[1]
    assert len(documents[0]) == 2
    assert not any("d" in key for key in documents[0]), "no private half"
    agent = await domain.agent("aws")
    kid = jwt.get_unverified_header(agent.token)["kid"]
    key = next(key for key in documents[0] if key["kid"] == kid)
    claims = jwt.decode(
        agent.token,
        jwt.PyJWK(key),
        algorithms=["ES256"],
        audience="http://127.0.0.1:8700",
        options={"verify_exp": False},
    )
    assert claims["txn"] == agent.task


async def test_the_issuer_says_where_to_renew_and_where_its_keys_are(domain: Domain) -> None:
    client = await domain.host("aws")
    for name in ("openid-configuration", "oauth-authorization-server"):
        found = (await client.get(f"/.well-known/{name}")).json()
        assert found["issuer"] == "http://127.0.0.1:8700"
        assert found["jwks_uri"] == "http://127.0.0.1:8700/.well-known/jwks.json"
        assert found["token_endpoint"] == "http://127.0.0.1:8700/oauth2/token"
    resource = (await client.get("/.well-known/oauth-protected-resource")).json()
    assert resource["resource"] == "http://127.0.0.1:8701"
    assert resource["authorization_servers"] == ["http://127.0.0.1:8700"]


async def test_a_service_gets_a_txn_token_and_never_the_agents_own(domain: Domain, service: Any) -> None:
    agent = await domain.agent()
    traceparent = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
    await agent.call("item", {"id": "7"}, headers={"traceparent": traceparent})
    headers = service.requests[0].headers
    assert "authorization" not in headers
    assert agent.token not in str(headers)
    assert headers["traceparent"] == traceparent
    assert headers["idempotency-key"].startswith(agent.task + ".")
    told = jwt.decode(headers["txn-token"], options={"verify_signature": False})
    assert jwt.get_unverified_header(headers["txn-token"])["typ"] == "txntoken+jwt"
    assert (told["txn"], told["req_wl"], told["exp"] - told["iat"]) == (agent.task, "onprem", 60)
    assert told["tctx"] == {"audience": "items.example", "tool": "item", "method": "GET", "arguments": {"id": "7"}}
    (row,) = (row for row in (await agent.get("/trace")).json()["records"] if row["kind"] == "action")
    assert row["txn_jti"] == told["jti"]
    await agent.call("check", {"order": "1"})
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", service.requests[1].headers["traceparent"])


# ── ASGI ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def exchange(domain: Domain, scope: dict[str, Any], *incoming: dict[str, Any]) -> list[dict[str, Any]]:
    await domain.host()
    messages, sent = list(incoming), []

    async def receive() -> dict[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await domain.apps["onprem"](scope, receive, send)
    return sent


def scope_of(agent: Agent, **more: Any) -> dict[str, Any]:
    headers = [(b"authorization", f"Bearer {agent.token}".encode()), *more.pop("headers", [])]
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "server": ("onprem", 80),
        "client": ("127.0.0.1", 1),
        "headers": headers,
        **more,
    }


async def test_a_web_socket_is_closed_at_once(domain: Domain) -> None:
    sent = await exchange(domain, {"type": "websocket", "path": "/v1/responses"}, {"type": "websocket.connect"})
    assert sent == [{"type": "websocket.close", "code": 1003}]


async def test_a_lifespan_is_begun_and_ended(domain: Domain) -> None:
    sent = await exchange(domain, {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_request_that_breaks_off_is_refused_and_costs_nothing(domain: Domain) -> None:
    agent = await domain.agent()
    sent = await exchange(domain, scope_of(agent), {"type": "http.request", "body": b"{", "more_body": True})
    assert sent[0]["status"] == 400
    assert b"broke off" in sent[1]["body"]


async def test_a_body_is_cut_off_where_it_grows_too_large(domain: Domain) -> None:
    agent = await domain.agent()
    piece = {"type": "http.request", "body": b"x" * 600_000, "more_body": True}
    scope = scope_of(agent, path="/v1/tools/item", raw_path=b"/v1/tools/item")
    sent = await exchange(domain, scope, *[piece] * 50)
    assert sent[0]["status"] == 413


@pytest.mark.parametrize("length", [b"\xb2", b"-1", b"x"])
async def test_a_length_that_is_no_number_is_not_believed(domain: Domain, length: bytes) -> None:
    agent = await domain.agent()
    body = {"type": "http.request", "body": b"{}", "more_body": False}
    sent = await exchange(domain, scope_of(agent, headers=[(b"content-length", length)]), body)
    assert sent[0]["status"] == 400


@pytest.mark.parametrize(("left", "status"), [(0.9, 504), (30.0, 200)])
async def test_a_host_that_has_no_time_left_sends_nothing(domain: Domain, left: float, status: int) -> None:
    agent = await domain.agent()
    body = b'{"model": "plan", "messages": [{"role": "user", "content": "x"}]}'
    scope = scope_of(agent, extensions={"buspass.deadline": left})
    sent = await exchange(domain, scope, {"type": "http.request", "body": body, "more_body": False})
    assert sent[0]["status"] == status, sent
    assert [request.timeout for request in domain.outbound.requests] == ([pytest.approx(29)] if status == 200 else [])


# ── coming up ───────────────────────────────────────────────────────────────────────────────────────────────────────


def environ(tmp_path: Path, **more: str | None) -> dict[str, str]:
    found = {
        "BUSPASS_CONFIG": str(CONFIG),
        "BUSPASS_DATA": str(tmp_path),
        "BUSPASS_HOST": "onprem",
        "BUSPASS_DOMAIN_KEY": DOMAIN_KEY,
        **more,
    }
    return {name: value for name, value in found.items() if value is not None}


async def test_a_host_comes_up_from_its_environment_alone(tmp_path: Path) -> None:
    application = await start(environ(tmp_path), LIMITS)
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://onprem") as client:
        assert (await client.get("/health/ready")).status_code == 200
    assert application.limits is LIMITS
    await application.close()
    assert (tmp_path / "operator.key").stat().st_mode & 0o777 == 0o600


async def test_a_file_with_one_host_needs_no_name_and_no_domain_key(tmp_path: Path) -> None:
    path = tmp_path / "buspass.yaml"
    path.write_text("version: 1\nworkflows:\n  mine: {models: [openai/gpt-5-mini], budget: {cost: 0.50}}\n")
    names = {"BUSPASS_HOST": None, "BUSPASS_DOMAIN_KEY": None, "BUSPASS_CONFIG": str(path)}
    application = await composed(
        environ(tmp_path, **names), LIMITS, state=MemoryState(), blobs=MemoryBlobs(), bind="localhost"
    )
    assert application.house.workflow("mine").models == ("openai/gpt-5-mini",)
    await application.close()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"BUSPASS_CONFIG": None}, "BUSPASS_CONFIG is not set"),
        ({"BUSPASS_HOST": None}, "must name one of hosts: onprem, aws"),
        ({"BUSPASS_HOST": "mars"}, "mars.*onprem, aws"),
        ({"BUSPASS_DOMAIN_KEY": None}, "domain_key"),
        ({"BUSPASS_DOMAIN_KEY": "short"}, "domain_key"),
    ],
)
async def test_a_host_that_cant_come_up_says_why(tmp_path: Path, changes: dict[str, str | None], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        await composed(environ(tmp_path, **changes), LIMITS, state=MemoryState(), blobs=MemoryBlobs())


async def test_a_policy_with_an_unknown_name_keeps_the_host_down(tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    rule = 'package buspass.call\n\nimport rego.v1\n\ndeny contains "x" if too_hihg\n'
    (tmp_path / "rules" / "call.rego").write_text(rule)
    path = tmp_path / "buspass.yaml"
    path.write_text(CONFIG.read_text().replace("policies/", "rules/"))
    with pytest.raises(ConfigError):
        await composed(environ(tmp_path, BUSPASS_CONFIG=str(path)), LIMITS, state=MemoryState(), blobs=MemoryBlobs())


async def test_a_host_with_real_issuers_vouches_for_nobody(identified: Domain) -> None:
    await identified.host()
    with pytest.raises(ConfigError, match="real issuers"):
        await identified.apps["onprem"].mint_workload("me")


@pytest.mark.parametrize(
    ("bind", "operator"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x.y", False)]
)
async def test_an_operators_key_is_for_loopback_only(tmp_path: Path, bind: str, operator: bool) -> None:
    identities = CONFIG.with_name("identified.yaml")
    names = environ(tmp_path, BUSPASS_CONFIG=str(identities))
    first = await composed(names, LIMITS, state=MemoryState(), blobs=MemoryBlobs())
    await first.close()
    application = await composed(names, LIMITS, bind=bind, state=MemoryState(), blobs=MemoryBlobs())
    assert (application.house.operator_key is not None) is operator
    await application.close()


def test_an_adapter_is_found_by_its_scheme_or_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert adapter("state", "memory").__name__ == "open"
    with pytest.raises(ConfigError, match=r"state: no adapter for 'tape'; this release has .*memory"):
        adapter("state", "tape")
    monkeypatch.setitem(ADAPTERS, ("state", "tape"), "buspass_tape.state:open")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="install the package that brings buspass_tape"):
        adapter("state", "tape")


async def test_a_url_that_an_adapter_refuses_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="state: "):
        await opened("state", "sqlite:///x?durability=hope")


async def test_two_hosts_of_one_process_share_nothing_but_their_store(domain: Domain) -> None:
    await asyncio.gather(domain.host(), domain.host("aws"))
    here, there = domain.apps["onprem"].house, domain.apps["aws"].house
    assert here.state is there.state
    assert here.signer.jwk["kid"] != there.signer.jwk["kid"]
    assert here.operator_key != there.operator_key
    assert here.limits == Limits(request_bytes=6_000_000, response_bytes=6_000_000, first_byte=60, total=60)
