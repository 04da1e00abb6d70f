"""Bad input at every endpoint: the right problem in the right envelope, never a 500, no trace, nothing spent."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import httpx
import jsonschema_rs
import pytest

from buspass.errors import CODES, Problem
from buspass.http.app import ROUTES, Endpoint
from buspass.http.asgi import AT_HAND, Request
from buspass.http.exchange import at_hand
from buspass.http.operation import UNSERVED
from buspass.identity.jws import sign
from buspass.surfaces.anthropic_messages import ERROR_TYPES
from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain

GUARDED = [row for row in ROUTES if row.who != "anyone"]
OPEN = [row for row in ROUTES if row.who == "anyone"]
SENDING = [row for row in GUARDED if row.sends]
JSON = [row for row in SENDING if row.sends != "Form"]
OBJECTS = [row for row in JSON if row.path != "/v1/tasks/{id}/checkpoint"]
FIELD = {"no_such_field": 1}
ASKED = {"model": "plan", "messages": [{"role": "user", "content": "x"}]}
GOOD: dict[str, dict[str, Any]] = {
    "start": {"workflow": "work"},
    "think": {"text": "x"},
    **dict.fromkeys(("chat", "azure_chat", "azure_deployment", "count"), ASKED),
    "messages": {**ASKED, "max_tokens": 9},
    "act": {"arguments": {"id": "1"}},
}


def ids(rows: list[Endpoint]) -> list[str]:
    return [f"{row.method} {row.path}" for row in rows]


def part(text: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(text).encode()).rstrip(b"=").decode()


def path_of(row: Endpoint, agent: Agent) -> str:
    known = agent.task if "/tasks/" in row.path else "k_aaaaaaaaaaaaaaaa" if "/keys/" in row.path else "a1"
    return row.path.replace("{id}", known).replace("{name}", "item").replace("{alias:path}", "plan")


async def request(
    row: Endpoint, agent: Agent, token: str | None, *, method: str | None = None, **sent: Any
) -> httpx.Response:
    headers = dict(sent.pop("headers", {}))
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return await agent.client.request(method or row.method, path_of(row, agent), headers=headers, **sent)


def judged(row: Endpoint, answer: httpx.Response, *codes: str) -> dict[str, Any]:
    """Check what every refusal must be, and give its document."""
    assert answer.status_code < 500, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "Traceback" not in answer.text
    assert ".py" not in answer.text
    document: dict[str, Any] = answer.json()
    if row.envelope == "openai":
        assert answer.headers["content-type"] == "application/json"
        assert set(document) == {"error"}
        error = document["error"]
        assert isinstance(error["message"], str)
        assert {"message", "type", "param", "code", "retryable"} <= set(error)
    elif row.envelope == "anthropic":
        assert answer.headers["content-type"] == "application/json"
        assert set(document) == {"type", "error"}
        assert document["type"] == "error"
        error = document["error"]
        assert isinstance(error["message"], str)
        assert {"message", "type", "code", "retryable"} <= set(error)
        assert error["type"] == ERROR_TYPES.get(answer.status_code, "invalid_request_error")
    else:
        error = document
        assert answer.headers["content-type"] == "application/problem+json"
        assert error["status"] == answer.status_code
        assert error["type"] == f"urn:buspass:problem:{error['code']}"
        assert {"title", "detail", "retryable"} <= set(error)
    assert error["code"] in codes, answer.text
    assert answer.status_code == CODES[error["code"]].status
    waits = "retry-after" in answer.headers
    assert error["retryable"] is waits
    assert (answer.headers.get("x-should-retry") == "false") is not waits
    return error


async def untouched(agent: Agent, domain: Domain) -> None:
    """Nothing was spent, nothing was sent, and the task is as it was."""
    shown = (await agent.get()).json()
    assert shown["status"] == "open", shown
    assert shown["fence"] == 1
    assert set(shown["budget"]["spent"].values()) | set(shown["budget"]["held"].values()) == {0}
    assert not domain.outbound.exchanges
    assert (await agent.get("/trace/verify")).json()["ok"]


async def tokens(domain: Domain, agent: Agent) -> dict[str, str]:
    """Credentials that open nothing, by what is wrong with them."""
    house = domain.apps["onprem"].house
    head, body, signature = agent.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    now = house.clock.now() // 1000

    async def minted(typ: str, **changes: Any) -> str:
        return await sign(house.signer, typ, {**claims, **changes})

    workload = {"iss": f"{house.settings.issuer}/local", "aud": house.settings.issuer, "sub": "me"}
    other = {**claims, "txn": "t_" + "a" * 24}
    return {
        "garbage": "garbage",
        "dots": "a.b.c",
        "not ascii": "t\u00f6ken",
        "huge": "x" * 20_000,
        "expired": await minted("at+jwt", iat=now - 100, exp=now - 6),
        "of the future": await minted("at+jwt", iat=now + 60),
        "wrong audience": await minted("at+jwt", aud="http://elsewhere"),
        "wrong issuer": await minted("at+jwt", iss="http://elsewhere"),
        "wrong type": await minted("txntoken+jwt"),
        "no task": await minted("at+jwt", txn=None),
        "no exp": await minted("at+jwt", exp=None),
        "alg none": f"{part({'alg': 'none', 'typ': 'at+jwt'})}.{body}.",
        "alg none, workload": f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({**workload, 'iat': now, 'exp': now + 9})}.",
        "tampered": f"{head}.{part(other)}.{signature}",
        "cut": f"{head}.{body}.{signature[:-8]}",
        "workload, expired": await sign(house.signer, "JWT", {**workload, "iat": now - 99, "exp": now - 9}),
        "workload, wrong audience": await sign(
            house.signer, "JWT", {**workload, "aud": "x", "iat": now, "exp": now + 9}
        ),
        "OpenAI key": "sk-proj-abcdefghijklmnop",
        "Anthropic key": "sk-ant-api03-abcdef",
        "gateway key": "bp_live_abcdef",
        "operator key of another host": "bpo_" + "a" * 40,
        "twice Bearer": "Bearer " + agent.token,
    }


@pytest.mark.parametrize("row", GUARDED, ids=ids(GUARDED))
async def test_no_token_that_is_not_good_opens_anything(domain: Domain, row: Endpoint) -> None:
    agent = await domain.agent()
    sent: dict[str, Any] = {}
    for name, token in {"": None, **await tokens(domain, agent)}.items():
        if row.handler == "token":  # its tokens stand in the form
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "actor_token": agent.token}
            sent = {"data": {**form, "subject_token": token or "x"}}
        elif row.who == "peer":  # theirs in the body
            sent = {"json": {row.sends.lower(): token or "x"}}
        elif row.handler in GOOD:
            sent = {"json": GOOD[row.handler]}
        raw = token.encode() if token is not None else None
        headers = {} if raw is None else {"authorization": b"Bearer " + raw}
        answer = await request(row, agent, None, headers=headers, **sent)
        found = judged(row, answer, "unauthenticated")
        assert answer.headers["www-authenticate"] == 'Bearer realm="buspass"'
        said = found.get("detail") or found["message"]
        assert token is None or len(token) < 5 or token not in said, "no part of a credential is repeated"
        if name == "OpenAI key" and row.who == "task":
            assert "OpenAI key (sk-…)" in said
            assert "buspass run" in said
    await untouched(agent, domain)


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
async def test_a_task_token_is_taken_where_sdks_put_an_api_key(domain: Domain, header: str) -> None:
    agent = await domain.agent()
    answer = await agent.client.get("/v1/models", headers={header: agent.token})
    assert [row["id"] for row in answer.json()["data"]] == ["plan", "backed"]
    basic = await agent.client.get("/v1/models", headers={header: agent.token, "authorization": "Basic eDp5"})
    assert basic.status_code == 401, "a scheme that is not taken is not passed over"


HOLDING = [row for row in GUARDED if row.handler != "token" and row.who != "peer"]
"""Routes whose credential stands in a header."""
PLACES = ("authorization", "x-api-key", "api-key")


def shown(**tokens: str) -> list[tuple[str, str]]:
    """Headers that hold these credentials, by header."""
    places = {name.replace("_", "-"): token for name, token in tokens.items()}
    return [(name, f"Bearer {token}" if name == "authorization" else token) for name, token in places.items()]


@pytest.mark.parametrize("row", HOLDING, ids=ids(HOLDING))
async def test_two_tokens_that_differ_open_nothing_and_one_in_every_header_is_one(
    domain: Domain, row: Endpoint
) -> None:
    agent, other = await domain.agent(), "bp_live_abcdef"
    good = await right_token(domain, row, agent)
    sent = {"json": GOOD[row.handler]} if row.handler in GOOD else {}
    for first, place, second in ((good, "x-api-key", other), (other, "api-key", good)):
        headers = {"authorization": f"Bearer {first}", place: second}
        answer = await agent.client.request(row.method, path_of(row, agent), headers=headers, **sent)
        found = judged(row, answer, "unauthenticated")
        said = found.get("detail") or found["message"]
        assert f"two different tokens, in Authorization and {place}: send one" in said
        assert first not in said
        assert second not in said
    await untouched(agent, domain)
    headers = dict(shown(authorization=good, x_api_key=good, api_key=good))
    assert (await agent.client.request(row.method, path_of(row, agent), headers=headers)).status_code != 401


@pytest.mark.parametrize("place", PLACES)
async def test_a_header_that_comes_twice_with_two_tokens_opens_nothing(domain: Domain, place: str) -> None:
    agent, other = await domain.agent(), (await domain.agent()).token
    (mine,), (theirs,) = shown(**{place: agent.token}), shown(**{place: other})
    for headers in ([mine, theirs], [theirs, mine]):
        answer = await agent.client.get("/v1/models", headers=headers)
        assert answer.status_code == 401
        assert f"in {'Authorization' if place == 'authorization' else place}: send one" in answer.text
    assert (await agent.client.get("/v1/models", headers=[mine, mine])).status_code == 200


FOREIGN = (
    "sk-ant-api03-abc_def-AA",
    "sk-ant-oat01-abc-def",
    "sk-proj-abcdef",
    "0123456789abcdef0123456789abcdef",
    "ya29.abc",
)


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_a_providers_key_beside_a_token_is_passed_over(domain: Domain, foreign: str) -> None:
    """SDKs send both where both of their variables are set; an API gateway in front has a key of its own."""
    agent = await domain.agent()
    for place in PLACES:
        for elsewhere in PLACES:
            if place != elsewhere:
                headers = dict(shown(**{place: agent.token, elsewhere: foreign}))
                assert (await agent.client.get("/v1/models", headers=headers)).status_code == 200, headers
    for headers in (shown(authorization=foreign, x_api_key="sk-other"), shown(x_api_key=foreign, api_key="sk-other")):
        assert (await agent.client.get("/v1/models", headers=headers)).status_code == 401


async def right_token(domain: Domain, row: Endpoint, agent: Agent) -> str:
    if row.who == "operator":
        return str(domain.apps["onprem"].house.operator_key)
    return await domain.apps["onprem"].mint_workload("me") if row.who == "workload" else agent.token


BODIES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "unknown field": (json.dumps(FIELD).encode(), ("unsupported", "invalid_request")),
    "array": (b"[]", ("invalid_request",)),
    "string": (b'"x"', ("invalid_request",)),
    "number": (b"7", ("invalid_request",)),
    "null": (b"null", ("invalid_request",)),
    "cut": (b'{"a": ', ("invalid_request",)),
    "twice": (b'{"reason": "a", "reason": "b"}', ("invalid_request",)),
    "invalid UTF-8": (b'{"reason": "\xff\xfe"}', ("invalid_request",)),
    "half a pair": (b'{"reason": "\\ud800"}', ("invalid_request",)),
    "NaN": (b'{"reason": NaN}', ("invalid_request",)),
    "deep": (b"[" * 5000 + b"]" * 5000, ("invalid_request",)),
    "wrong types": (
        json.dumps({"workflow": 1, "reason": 1, "text": 1, "arguments": 1, "model": 1, "messages": 1}).encode(),
        ("invalid_request", "unsupported"),
    ),
    "too large": (b'{"reason": "' + b"x" * 2_000_000 + b'"}', ("request_too_large",)),
}


@pytest.mark.parametrize("what", BODIES)
@pytest.mark.parametrize("row", OBJECTS, ids=ids(OBJECTS))
async def test_a_body_that_is_no_good_changes_nothing(domain: Domain, row: Endpoint, what: str) -> None:
    agent = await domain.agent()
    content, codes = BODIES[what]
    if row.section == "Models" and what == "too large":
        content = b'{"model": "' + b"x" * 7_000_000 + b'"}'
    token = await right_token(domain, row, agent)
    judged(row, await request(row, agent, token, content=content), *codes)
    await untouched(agent, domain)


@pytest.mark.parametrize("row", SENDING, ids=ids(SENDING))
async def test_a_body_that_says_it_is_too_large_is_not_read(domain: Domain, row: Endpoint) -> None:
    agent = await domain.agent()
    headers = {"content-length": "7000001", "content-type": "application/x-www-form-urlencoded"}
    token = await right_token(domain, row, agent)
    judged(row, await request(row, agent, token, headers=headers, content=b"{}"), "request_too_large")


async def test_an_inference_may_be_larger_than_a_megabyte_and_the_rest_not(domain: Domain) -> None:
    agent = await domain.agent(workflow="free")
    assert (await agent.chat("x" * 2_000_000)).status_code == 200
    arguments = {"arguments": {"order": "x" * 2_000_000}}
    answer = await agent.client.post("/v1/tools/check", json=arguments, headers=agent.headers)
    assert answer.status_code == 413


@pytest.mark.parametrize("row", ROUTES, ids=ids(list(ROUTES)))
async def test_a_wrong_method_is_told_which_are_right(domain: Domain, row: Endpoint) -> None:
    agent = await domain.agent()
    known = {other.method for other in ROUTES if other.path == row.path}
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"} - known:
        answer = await request(row, agent, agent.token, method=method)
        judged(row, answer, "http_method")
        assert set(answer.headers["allow"].split(", ")) == known
    await untouched(agent, domain)


@pytest.mark.parametrize("row", OPEN, ids=ids(OPEN))
async def test_what_is_open_is_open_and_a_head_of_it_too(domain: Domain, row: Endpoint) -> None:
    agent = await domain.agent()
    assert (await request(row, agent, None)).status_code == 200
    assert (await request(row, agent, None, method="HEAD")).status_code == 200


PATHS = ["/v1", "/v1/", "/v1/tasks/", "/v2/tasks", "/v1/tasks/x/y/z", "/admin", "/.env", "//", "/v1/tools/a/b"]


async def test_the_root_says_what_this_is(domain: Domain) -> None:
    """Clients try the base URL before they use it."""
    client = await domain.host()
    answer = await client.get("/")
    assert answer.json() == {"service": "buspass", "host": "onprem", "description": "/openapi.json"}
    assert (await client.head("/")).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_nothing_here(domain: Domain, path: str, method: str) -> None:
    client = await domain.host()
    answer = await client.request(method, f"http://onprem{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


MISPLACED = [
    ("/chat/completions", "openai", "/v1/chat/completions"),
    ("/v1/v1/chat/completions", "openai", "/v1/chat/completions"),
    ("/models", "openai", "/v1/models"),
    ("/v1/v1/messages", "anthropic", "/v1/messages"),
    ("/messages", "anthropic", "/v1/messages"),
]


@pytest.mark.parametrize(("path", "surface", "meant"), MISPLACED)
async def test_an_sdk_with_a_wrong_base_url_is_told_which_one_is_right(
    domain: Domain, path: str, surface: str, meant: str
) -> None:
    agent = await domain.agent()
    answer = await agent.client.post(path, json={}, headers=agent.headers)
    document = answer.json()
    assert answer.status_code == 404
    assert document["error"]["code"] == "not_found", "in the envelope that its SDK reads"
    assert (document.get("type") == "error") == (surface == "anthropic")
    assert document["error"]["message"].startswith(f"{path} is nothing here, {meant} is; the base URL of OpenAI's")


@pytest.mark.parametrize("name", ["t_", "x", "t_a.b", "t_" + "a" * 100, "t_%C3%A9", "..%2F..%2Fdomain", "t_a%00"])
async def test_an_odd_task_id_is_not_found(domain: Domain, name: str) -> None:
    agent = await domain.agent()
    for path in ("", "/trace", "/checkpoint"):
        answer = await agent.client.get(f"/v1/tasks/{name}{path}", headers=agent.headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), answer.text


@pytest.mark.parametrize("path", UNSERVED)
async def test_what_clients_may_well_try_is_refused_by_name(domain: Domain, path: str) -> None:
    agent = await domain.agent()
    named = path.replace("{rest:path}", "x/y").replace("{id}", agent.task).replace("{verb}", "v").replace("{rev}", "1")
    for method in ("GET", "POST"):
        answer = await agent.client.request(method, named, headers=agent.headers)
        document = answer.json()
        error = document.get("error", document)
        assert (answer.status_code, error["code"]) == (404, "unsupported_endpoint")
        assert named in (error.get("detail") or error["message"])
        assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("path", "openai"),
    [
        ("/v1/models/plan", True),
        ("/v1/images/generations", True),
        ("/v1/audio/speech", True),
        ("/v1/files", True),
        ("/v1/batches/b", True),
        ("/openai/deployments/plan/chat/completions", True),
        ("/openai/deployments/plan/embeddings", True),
        ("/v1/chat/nothing", True),
        ("/v1/spend", False),
        ("/v1/nothing", False),
    ],
)
async def test_openais_paths_answer_in_openais_envelope(domain: Domain, path: str, openai: bool) -> None:
    client = await domain.host()
    assert ("error" in (await client.get(path)).json()) is openai


@pytest.mark.parametrize(
    ("tool", "body", "status", "problem", "path"),
    [
        ("nothing", {"arguments": {}}, 403, "tool_not_granted", "/tool"),
        ("Item", {"arguments": {"id": "1"}}, 403, "tool_not_granted", "/tool"),
        ("x" * 2000, {"arguments": {}}, 403, "tool_not_granted", "/tool"),
        ("sealed", {"arguments": {}}, 403, "tool_not_granted", "/tool"),
        ("item", {"arguments": {"id": "1", "made_up": True}}, 422, "invalid_arguments", "/made_up"),
        ("item", {"arguments": {"idd": "1"}}, 422, "invalid_arguments", None),
        ("item", {"arguments": {"id": 1}}, 422, "invalid_arguments", "/id"),
        ("item", {"arguments": {}}, 422, "invalid_arguments", "/id"),
        ("item", {"arguments": {"id": ".."}}, 422, "invalid_arguments", "/id"),
        ("item", {"arguments": {"id": ""}}, 422, "invalid_arguments", "/id"),
        ("item", {"arguments": '{"id": "1"}'}, 422, "invalid_arguments", "/arguments"),
        ("item", {"arguments": []}, 422, "invalid_arguments", "/arguments"),
        ("item", {}, 400, "invalid_request", None),
        ("item", {"arguments": {"id": "1"}, "tool_call_id": 7}, 400, "invalid_request", None),
        ("item", {"arguments": {"id": "1"}, "tool": "pay"}, 422, "unsupported", "/tool"),
        ("pay", {"arguments": {"order": "1", "amount": -1}}, 422, "invalid_arguments", "/amount"),
    ],
)
async def test_a_hallucinated_tool_or_parameter_is_named_and_not_sent(
    domain: Domain, tool: str, body: Any, status: int, problem: str, path: str | None
) -> None:
    agent = await domain.agent()
    answer = await agent.client.post(f"/v1/tools/{tool}", json=body, headers=agent.headers)
    assert (answer.status_code, answer.json()["code"]) == (status, problem), answer.text
    if path:
        assert answer.json()["errors"][0]["path"] == path
    assert answer.json()["task"] == agent.task
    await untouched(agent, domain)


async def test_a_tool_is_called_at_the_hosts_that_serve_it(domain: Domain) -> None:
    agent = await domain.agent()
    await agent.call("check", {"order": "1"})
    there = await domain.at("aws", agent)
    answer = await there.call("pay", {"order": "1", "amount": 1})
    assert (answer.status_code, answer.json()["code"]) == (403, "tool_not_granted")
    assert answer.json()["url"] == "http://127.0.0.1:8700/v1/tools/pay"
    listed = (await there.client.get("/v1/tools", headers=agent.headers)).json()["data"]
    urls = {row["function"]["name"]: row["url"] for row in listed}
    assert urls == {
        "item": "http://127.0.0.1:8701/v1/tools/item",
        "check": "http://127.0.0.1:8701/v1/tools/check",
        "pay": "http://127.0.0.1:8700/v1/tools/pay",
    }


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"idempotency-key": "x" * 256}, "invalid_request"),
        ({"idempotency-key": ""}, "invalid_request"),
        ({"buspass-log": "loud"}, "invalid_request"),
        ({"buspass-metadata": "x"}, "invalid_request"),
        ({"buspass-metadata": "[]"}, "invalid_request"),
        ({"buspass-metadata": '{"a": {}}'}, "invalid_request"),
        ({"buspass-metadata": json.dumps({str(n): n for n in range(17)})}, "invalid_request"),
        ({"buspass-metadata": json.dumps({"a": "x" * 1024})}, "invalid_request"),
    ],
)
async def test_a_header_that_is_no_good_is_refused(domain: Domain, headers: dict[str, str], problem: str) -> None:
    agent = await domain.agent()
    answers = [await agent.chat(headers=headers), await agent.call("item", {"id": "1"}, headers=headers)]
    for row, answer in zip((r for r in ROUTES if r.handler in {"chat", "act"}), answers, strict=True):
        judged(row, answer, problem)
    await untouched(agent, domain)


async def test_what_nobody_foresaw_is_internal_and_tells_nothing(
    domain: Domain, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await domain.agent()

    async def breaks(task: str) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(domain.apps["onprem"].house.tasks, "look", breaks)
    for path in ("/v1/models", f"/v1/tasks/{agent.task}"):
        answer = await agent.client.get(path, headers=agent.headers)
        document = answer.json()
        error = document.get("error", document)
        assert (answer.status_code, error["code"]) == (500, "internal")
        assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text, "the log says how"


async def test_no_path_writes_a_line_of_its_own_into_the_log(domain: Domain, caplog: pytest.LogCaptureFixture) -> None:
    agent = await domain.agent()
    domain.state.inner.down = True  # type: ignore[attr-defined]  # it is a MemoryState
    path = "/v1/actions/x%0aERROR%20forged%1b[2J"
    answer = await agent.client.get(path, headers=agent.headers)
    domain.state.inner.down = False  # type: ignore[attr-defined]
    assert (answer.status_code, answer.json()["code"]) == (503, "state_unavailable")
    (line,) = [each.getMessage() for each in caplog.records if "forged" in each.getMessage()]
    assert line.startswith("GET /v1/actions/x\\nERROR forged\\x1b[2J: state_unavailable: ")


async def test_every_problem_fits_its_published_schema(domain: Domain) -> None:
    client = await domain.host()
    document = (await client.get("/openapi.json")).json()
    schema = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    validator = jsonschema_rs.Draft202012Validator(schema)
    for path in ("/nothing", "/v1/spend", "/v1/tasks"):
        validator.validate((await client.get(path)).json())
    assert not validator.is_valid({"code": "made_up"})


async def test_a_clock_that_moved_on_ends_a_token(domain: Domain) -> None:
    clock = domain.clock
    assert isinstance(clock, FakeClock)
    agent = await domain.agent(budget={"wall": 60})
    assert (await agent.get()).status_code == 200
    clock.advance(66)
    answer = await agent.get()
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert "expired" in answer.json()["detail"]


@pytest.mark.parametrize("row", JSON, ids=ids(JSON))
async def test_a_compressed_body_is_told_as_such_and_not_looked_into(domain: Domain, row: Endpoint) -> None:
    agent, key = await domain.agent(), domain.apps["onprem"].house.operator_key
    token = {"operator": key, "workload": await domain.apps["onprem"].mint_workload("me")}.get(row.who, agent.token)
    for coding in ("gzip", "br", "x" * 300):
        answer = await request(row, agent, token, headers={"content-encoding": coding}, content=gzip.compress(b"{}"))
        error = judged(row, answer, "unsupported", *(["denied", "unauthenticated"] if row.who == "peer" else []))
        if error["code"] == "unsupported":
            assert f"Content-Encoding {coding[:40]!r} is not taken" in error.get("detail", error.get("message"))
            assert answer.headers["accept-encoding"] == "identity"
    plain = await request(row, agent, token, headers={"content-encoding": "Identity"}, content=b"{")
    assert "Content-Encoding" not in plain.text
    await untouched(agent, domain)


def test_a_compressed_body_that_is_at_hand_is_not_taken_either() -> None:
    class Whole:
        def fetch(self) -> bytes:
            return b"x"

    def request_of(*headers: tuple[bytes, bytes]) -> Request:
        return Request({"headers": list(headers), AT_HAND: Whole()}, None)  # type: ignore[arg-type]  # not asked

    assert at_hand(request_of(), 9) == b"x"
    with pytest.raises(Problem, match="Content-Encoding 'gzip'"):
        at_hand(request_of((b"content-encoding", b"gzip")), 9)
