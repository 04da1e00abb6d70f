"""The agent, the rogue and the demo's verdict against a stand-in for the gateway: the surface they use, nothing more."""

from __future__ import annotations

import argparse
import contextlib
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from buspass.testing.issuer import Issuer, SigningKey
from buspass.testing.provider import Provider
from buspass.testing.serve import serving

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from returns import presentation, services, upstreams  # noqa: E402 - the examples are no package of the distribution
from returns.coordinator import Task, handle  # noqa: E402
from returns.demo import Run  # noqa: E402
from returns.launcher import HOSTS, UPSTREAMS, Stack  # noqa: E402
from returns.planner import plan  # noqa: E402
from returns.rogue import Rogue  # noqa: E402
from returns.txn import TxnVerifier  # noqa: E402
from returns.world import REFUND_LIMIT, build  # noqa: E402

CONFIG = yaml.safe_load((EXAMPLES / "returns" / "buspass.yaml").read_text())
REQUESTS = [json.loads(line) for line in (EXAMPLES / "returns" / "requests.jsonl").read_text().splitlines()]
WORLD = build()


class StandIn:
    """Tasks, tools, licences, Txn-Tokens and a trace: as little gateway as the example can run on."""

    def __init__(self, url: str, login: Issuer, provider: Provider, shop: httpx.AsyncClient) -> None:
        self.url, self.login, self.provider, self.shop = url, login, provider, shop
        self.model = httpx.AsyncClient(transport=httpx.ASGITransport(app=provider.app))
        self.key = SigningKey.make("ES256")
        self.tasks: dict[str, dict[str, Any]] = {}
        self.busy = 0
        self.app = Starlette(
            routes=[
                Route("/.well-known/jwks.json", self.jwks),
                Route("/v1/tasks", self.start, methods=["POST"]),
                Route("/v1/tasks/{id}/complete", self.complete, methods=["POST"]),
                Route("/v1/tasks/{id}/trace", self.trace),
                Route("/v1/tools", self.tools),
                Route("/v1/tools/{name}", self.act, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def jwks(self, _: Request) -> Response:
        return JSONResponse({"keys": [self.key.jwk]})

    async def start(self, request: Request) -> Response:
        proof = (await request.json())["on_behalf_of"].get("token")
        realm = self.login.realms["customers"].signing
        try:
            customer = jwt.decode(proof or "", realm.private.public_key(), ["ES256"], audience="api://buspass")["sub"]
        except jwt.InvalidTokenError as error:
            return problem(401, "unauthenticated", str(error))
        task = {"id": f"task_{len(self.tasks)}", "subject": {"id": customer}}
        token = secrets.token_hex(8)
        self.tasks[task["id"]] = {**task, "token": token, "licences": {}, "kept": {}, "records": [], "done": ""}
        return JSONResponse({"task": task, "token": token, "expires_in": 60, "base_url": f"{self.url}/v1"}, 201)

    def of(self, request: Request) -> dict[str, Any]:
        token = request.headers["authorization"].removeprefix("Bearer ")
        return next(task for task in self.tasks.values() if task["token"] == token)

    async def complete(self, request: Request) -> Response:
        self.of(request)["done"] = (await request.json())["reason"]
        return JSONResponse({})

    async def trace(self, request: Request) -> Response:
        records = self.tasks[request.path_params["id"]]["records"]
        return JSONResponse({"task": {}, "records": records, "next_cursor": None})

    async def tools(self, request: Request) -> Response:
        self.of(request)
        rows = [
            {
                "type": "function",
                "function": {"name": name, "description": tool["description"], "parameters": tool["input"]},
                "url": f"{self.url}/v1/tools/{name}",
            }
            for name, tool in CONFIG["tools"].items()
        ]
        return JSONResponse({"data": rows})

    async def chat(self, request: Request) -> Response:
        task = self.of(request)
        body = await request.json() | {"model": "planner-1"}
        bearer = {"Authorization": f"Bearer {self.provider.key}"}
        answer = await self.model.post("http://127.0.0.1/v1/chat/completions", json=body, headers=bearer)
        said = answer.json()["choices"][0]["message"]
        for call in said.get("tool_calls", ()):
            arguments = json.loads(call["function"]["arguments"])
            task["licences"][call["id"]] = {"name": call["function"]["name"], "arguments": arguments, "answer": None}
        calls = [[c["id"], c["function"]["name"], c["function"]["arguments"]] for c in said.get("tool_calls", ())]
        record(task, "inference", "plan", cost=0.0001, thought=said["content"], tool_calls=calls)
        return JSONResponse(answer.json())

    async def act(self, request: Request) -> Response:
        if self.busy:
            self.busy -= 1
            return JSONResponse({"code": "rate_limited"}, 429, headers={"Retry-After": "0"})
        task, name, body = self.of(request), request.path_params["name"], await request.json()
        arguments = body["arguments"]
        licences = task["licences"]
        licence = licences.get(body.get("tool_call_id")) or next(
            (row for row in licences.values() if (row["name"], row["arguments"]) == (name, arguments)), None
        )
        if (code := self.refusal(task, name, arguments, licence)) is not None:
            record(task, "refusal", name, code=code)
            return problem(403, code, f"{name}: {code}")
        assert licence is not None
        if licence["answer"] is None:
            licence["answer"] = await self.send(task, name, arguments)
        return JSONResponse(licence["answer"])

    def refusal(self, task: dict[str, Any], name: str, arguments: dict[str, Any], licence: Any) -> str | None:
        if licence is None:
            return "thought_required"
        if licence["arguments"] != arguments:
            return "idempotency_mismatch"
        if arguments.get("id", arguments.get("customer_id", task["subject"]["id"])) != task["subject"]["id"]:
            return "denied"
        if name == "refund" and not task["kept"].get(arguments["order_id"]):
            return "prerequisite_missing"
        if name == "refund" and arguments["amount"] * 100 > min(
            REFUND_LIMIT, WORLD.orders[arguments["order_id"]].cents
        ):
            return "denied"
        return None

    async def send(self, task: dict[str, Any], name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        spec, jti, now = CONFIG["tools"][name], secrets.token_hex(8), int(time.time())
        method = spec["http"]["method"]
        context = {"audience": spec["auth"]["txn"]["audience"], "tool": name, "method": method, "arguments": arguments}
        claims = {"iss": self.url, "aud": self.url, "iat": now, "exp": now + 60, "jti": jti, "txn": task["id"]}
        claims |= {"sub": f"customer:{task['subject']['id']}", "tctx": context}
        token = jwt.encode(claims, self.key.private, "ES256", headers={"typ": "txntoken+jwt", "kid": self.key.kid})
        body = {"json": arguments} if method == "POST" else {}
        answer = await self.shop.request(
            method, spec["http"]["url"].format(**arguments), headers={"Txn-Token": token}, **body
        )
        result = answer.json()
        if name == "legal_check":
            task["kept"][result["order_id"]] = result["approved"]
        record(task, "action", name, status=answer.status_code, txn_jti=jti, arguments=arguments)
        return {"result": result, "action": {"id": jti}}


def record(task: dict[str, Any], kind: str, name: str, **more: Any) -> None:
    rows = task["records"]
    thoughts = [row["id"] for row in rows if row["kind"] == "inference"]
    cause = thoughts[-1] if thoughts and kind != "inference" else None
    at = "2026-11-20T09:00:00.000Z"
    rows.append({"id": f"r{len(rows)}", "kind": kind, "name": name, "host": "azure", "at": at, "cause": cause, **more})


def problem(status: int, code: str, detail: str) -> JSONResponse:
    return JSONResponse({"code": code, "status": status, "detail": detail, "retryable": False}, status)


class Standing(Stack):
    """The stack's ports, secrets and log without its processes."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.requests = services.RequestLog(self.log)


@contextlib.asynccontextmanager
async def standing(run: Path) -> AsyncIterator[tuple[Standing, StandIn]]:
    stack = Standing(run)
    port = stack.ports[HOSTS["azure"]]
    login = upstreams.issuer(
        stack.ports[UPSTREAMS["issuer"]],
        stack.secrets["RETURNS_COORDINATOR_SECRET"],
        stack.secrets["RETURNS_DESK_SECRET"],
    )

    async def fetch() -> Any:
        return {"keys": [gateway.key.jwk]}

    verifier = TxnVerifier(stack.gateway, fetch=fetch)
    refunds = services.refund_service(verifier, stack.requests)
    apps = {
        8743: services.data_service(WORLD, verifier, stack.requests),
        8744: services.legal_service(WORLD, verifier, stack.requests),
        8745: refunds,
    }
    mounts = {f"all://127.0.0.1:{at}": httpx.ASGITransport(app=app) for at, app in apps.items()}
    shop = httpx.AsyncClient(mounts=mounts)
    gateway = StandIn(stack.gateway, login, Provider("sk-sim", mind=plan), shop)
    async with (
        serving(gateway.app, port=port),
        serving(login.app, port=stack.ports[UPSTREAMS["issuer"]]),
        serving(refunds, port=stack.ports[UPSTREAMS["refunds"]]),
    ):
        yield stack, gateway


async def test_the_agent_works_with_the_official_sdk(tmp_path: Path) -> None:
    heard: list[str] = []
    async with standing(tmp_path) as (stack, gateway), httpx.AsyncClient() as http:
        proof = await stack.customer_token(http, "C-1042")
        task = await Task.start(stack.gateway, await stack.workload_token(http), proof, http)
        gateway.busy = 2
        outcome = await handle(task, "The bench from O-20075 is broken, refund it.", lambda kind, _: heard.append(kind))
    assert [(a["tool"], a["status"], a["code"]) for a in outcome.actions] == [
        ("get_customer", 200, None),
        ("get_order", 200, None),
        ("legal_check", 200, None),
        ("refund", 200, None),
    ]
    assert heard == ["thought", "action"] * 4 + ["final"]
    assert outcome.text.startswith("Done: 350.99 EUR")
    assert gateway.tasks[outcome.task]["done"] == outcome.text


async def test_without_a_customers_proof_there_is_no_task(tmp_path: Path) -> None:
    async with standing(tmp_path) as (stack, _), httpx.AsyncClient() as http:
        with pytest.raises(httpx.HTTPStatusError):
            await Task.start(stack.gateway, "workload", "no proof", http)


async def test_a_run_is_judged_by_logs_and_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(json=False, ask=None)
    async with standing(tmp_path) as (stack, gateway), httpx.AsyncClient() as http:
        run = Run(stack, http, options)
        await run.requests(REQUESTS)
        attempts = await Rogue(stack, WORLD, http).all()
        summary = await run.summary(1.0)
        lost = gateway.tasks[run.rows[0]["task"]]
        lost["records"] = [row for row in lost["records"] if row["kind"] != "action"]
        await run.trace(lost["id"])
        assert (await run.summary(1.0))["ungoverned"] == 4
    assert {row["outcome"] for row in run.rows if row["right"]} == {
        "refunded", "legal_risk", "above_limit", "above_total", "unknown_customer", "unknown_order", "hostile_note",
        "other_customer",
    }  # fmt: skip
    assert all(row["right"] and row["outcome"] == row["expected"] for row in run.rows), run.rows
    assert (summary["ungoverned"], summary["turned_away"]) == (0, 2)
    assert [(a.name, a.code) for a in attempts] == [
        ("invented customer", "unauthenticated"),
        ("invented customer", "unauthenticated"),
        ("another customer's task", "denied"),
        ("refund without a thought", "thought_required"),
        ("second refund on one thought", "idempotency_mismatch"),
        ("second refund on one thought", "receipt"),
        ("refund after a negative check", "prerequisite_missing"),
        ("forged Txn-Token at the service", "unknown_key"),
        ("forged Txn-Token at the service", "invalid_token"),
    ]
    assert all(attempt.refused for attempt in attempts)
    presentation.table(run.rows)
    presentation.timeline(run.rows[0], run.traces[run.rows[0]["task"]])
    presentation.rogue(attempts)
    presentation.closing(summary)
    shown = capsys.readouterr().out
    for text in ("26/26", "hostile_note", "Timeline of task_", "refused", "0 ungoverned calls"):
        assert text in shown
    assert "WENT THROUGH" not in shown


def test_the_launcher_writes_the_configuration_for_its_own_ports(tmp_path: Path) -> None:
    stack = Stack(tmp_path, real=True)
    stack._write()
    text = stack.config.read_text()
    assert "127.0.0.1:87" not in text or any(8700 <= port < 8800 for port in stack.ports.values())
    written = yaml.safe_load(text)
    assert written["issuer"] == stack.gateway == written["hosts"]["azure"]["url"]
    assert written["models"]["plan"]["targets"] == [{"provider": "openai", "model": "gpt-5-mini"}]
    assert (tmp_path / "policies" / "returns.rego").exists()
