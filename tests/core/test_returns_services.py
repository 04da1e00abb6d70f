"""The services behind the tools, driven by the gullible planner: without a cage money is lost, and the oracle sees it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import yaml

from buspass.testing.issuer import SigningKey

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from returns import oracle, services  # noqa: E402 - the examples are no package of the distribution
from returns.planner import plan  # noqa: E402
from returns.txn import TxnVerifier  # noqa: E402
from returns.wording import generate  # noqa: E402
from returns.world import REFUND_LIMIT, build  # noqa: E402

FOLDER = EXAMPLES / "returns"
CONFIG = yaml.safe_load((FOLDER / "buspass.yaml").read_text())
ISSUER = CONFIG["issuer"]
KEY = SigningKey.make("ES256")
WORLD = build()
TOOLS = [
    {"type": "function", "function": {"name": name, "description": tool["description"], "parameters": tool["input"]}}
    for name, tool in CONFIG["tools"].items()
]
REQUESTS = [json.loads(line) for line in (FOLDER / "requests.jsonl").read_text().splitlines()]


class Shop:
    """The three services in memory, and a mint for their tokens."""

    def __init__(self) -> None:
        self.log = services.RequestLog()
        self.keys = [KEY.jwk]
        self.fetched = 0
        self.now = time.time()

        async def fetch() -> Any:
            self.fetched += 1
            await asyncio.sleep(0)
            return {"keys": self.keys}

        verifier = TxnVerifier(ISSUER, fetch=fetch, clock=lambda: self.now)
        apps = {
            8743: services.data_service(WORLD, verifier, self.log),
            8744: services.legal_service(WORLD, verifier, self.log),
            8745: services.refund_service(verifier, self.log),
        }
        mounts = {f"all://127.0.0.1:{port}": httpx.ASGITransport(app=app) for port, app in apps.items()}
        self.http = httpx.AsyncClient(mounts=mounts)

    async def call(
        self, tool: str, arguments: dict[str, Any], token: str | None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """What the gateway's connector does: the tool's method and URL, filled with the arguments."""
        spec = CONFIG["tools"][tool]["http"]
        rest = {name: value for name, value in arguments.items() if f"{{{name}}}" not in spec["url"]}
        url = spec["url"].format(**arguments)
        sent = {"Txn-Token": token} if token is not None else {}
        body = {"json": rest} if spec["method"] == "POST" else {}
        return await self.http.request(spec["method"], url, headers={**sent, **(headers or {})}, **body)


def txn(
    tool: str, arguments: dict[str, Any], subject: str, *, key: SigningKey = KEY, head: Any = None, **changes: Any
) -> str:
    now = int(time.time())
    spec = CONFIG["tools"][tool]
    context = {"audience": spec["auth"]["txn"]["audience"], "tool": tool, "method": spec["http"]["method"]}
    claims = {
        "iss": ISSUER,
        "aud": ISSUER,
        "iat": now,
        "exp": now + 60,
        "jti": jwt.utils.base64url_encode(time.perf_counter_ns().to_bytes(8, "big")).decode(),
        "txn": "task_1",
        "sub": f"customer:{subject}",
        "tctx": {**context, "arguments": arguments},
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    headers = {"typ": "txntoken+jwt", "kid": key.kid, **(head or {})}
    return jwt.encode(claims, key.private, algorithm=key.algorithm, headers=headers)


GET: tuple[str, dict[str, Any]] = ("get_customer", {"id": "C-1042"})
PAY: tuple[str, dict[str, Any]] = (
    "refund",
    {"customer_id": "C-1042", "order_id": "O-20075", "amount": 12.5, "reason": "broken"},
)


async def test_a_good_token_opens_exactly_its_call_once() -> None:
    shop = Shop()
    token = txn(*GET, "C-1042")
    first = await shop.call(*GET, token)
    assert first.json()["customer_id"] == "C-1042"
    again = await shop.call(*GET, token)
    assert (again.status_code, again.json()["error"]) == (401, "replayed")
    assert [(line["status"], line["txn"]) for line in shop.log.entries] == [(200, "task_1"), (401, "task_1")]


STRANGER = SigningKey.make("ES256")
BAD: list[tuple[str, Callable[[], str | None], int, str]] = [
    ("none at all", lambda: None, 401, "no_token"),
    ("no JWT", lambda: "abc", 401, "invalid_token"),
    ("forged", lambda: txn(*PAY, "C-1042", key=STRANGER), 401, "unknown_key"),
    ("forged under our name", lambda: txn(*PAY, "C-1042", key=STRANGER, head={"kid": KEY.kid}), 401, "invalid_token"),
    ("a task token", lambda: txn(*PAY, "C-1042", head={"typ": "at+jwt"}), 401, "invalid_token"),
    ("expired", lambda: txn(*PAY, "C-1042", iat=1, exp=60), 401, "invalid_token"),
    ("too long", lambda: txn(*PAY, "C-1042", exp=int(time.time()) + 600), 401, "invalid_token"),
    ("another domain", lambda: txn(*PAY, "C-1042", aud="http://elsewhere"), 401, "invalid_token"),
    ("another issuer", lambda: txn(*PAY, "C-1042", iss="http://elsewhere"), 401, "invalid_token"),
    ("no task", lambda: txn(*PAY, "C-1042", txn=None), 401, "invalid_token"),
    ("another tool", lambda: txn(*GET, "C-1042"), 403, "wrong_context"),
    ("another sum", lambda: txn("refund", {**PAY[1], "amount": 1}, "C-1042"), 403, "wrong_context"),
    ("no context", lambda: txn(*PAY, "C-1042", tctx="x"), 403, "wrong_context"),
    ("another customer", lambda: txn(*PAY, "C-1001"), 403, "wrong_subject"),
]


@pytest.mark.parametrize(("what", "make", "status", "error"), BAD, ids=[row[0] for row in BAD])
async def test_no_other_token_opens_anything(
    what: str, make: Callable[[], str | None], status: int, error: str
) -> None:
    shop = Shop()
    answer = await shop.call(*PAY, make())
    assert (answer.status_code, answer.json()["error"]) == (status, error), what
    [line] = shop.log.entries
    assert (line["status"], bool(line["why"])) == (status, True)


async def test_keys_are_read_again_for_an_unknown_one_but_not_at_every_forgers_pace() -> None:
    shop = Shop()
    for _ in range(5):
        await shop.call(*GET, txn(*GET, "C-1042", key=STRANGER))
    assert shop.fetched == 1
    shop.keys.append(STRANGER.jwk)
    shop.now += 2
    assert (await shop.call(*GET, txn(*GET, "C-1042", key=STRANGER))).status_code == 200
    assert shop.fetched == 2


async def test_one_key_pays_once() -> None:
    shop = Shop()
    key = {"Idempotency-Key": "k-1"}
    first = await shop.call(*PAY, txn(*PAY, "C-1042"), key)
    again = await shop.call(*PAY, txn(*PAY, "C-1042"), key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    more = ("refund", {**PAY[1], "amount": 13})
    assert (await shop.call(*more, txn(*more, "C-1042"), key)).status_code == 422


@pytest.mark.parametrize("amount", [0, -1, 0.001, "12", True, None])
async def test_only_sums_are_paid(amount: Any) -> None:
    shop = Shop()
    call = ("refund", {**PAY[1], "amount": amount})
    assert (await shop.call(*call, txn(*call, "C-1042"))).status_code == 422


async def test_another_customers_order_is_as_good_as_none() -> None:
    shop = Shop()
    call = ("get_order", {"customer_id": "C-1001", "order_id": "O-20075"})
    answer = await shop.call(*call, txn(*call, "C-1001"))
    assert (answer.status_code, answer.json()["error"]) == (404, "unknown_order")


def test_the_world_is_always_the_same() -> None:
    again = build()
    assert again == WORLD
    assert build(seed=1) != WORLD
    assert (len(WORLD.customers), len(WORLD.orders)) == (300, 530)
    assert CONFIG["workflows"]["return-exception"]["subject"]["types"] == ["customer"]
    policy = (FOLDER / "policies" / "returns.rego").read_text()
    assert f"limit := {REFUND_LIMIT // 100}\n" in policy


def deny(request: dict[str, Any], tool: str, arguments: dict[str, Any], checks: dict[str, bool]) -> str | None:
    """The cage in ten lines, in place of a gateway: what buspass.yaml and the policies say."""
    if arguments.get("id", arguments.get("customer_id", request["customer"])) != request["customer"]:
        return "denied"
    if tool == "refund":
        if not checks.get(arguments["order_id"]):
            return "prerequisite_missing"
        if arguments["amount"] * 100 > min(REFUND_LIMIT, WORLD.orders[arguments["order_id"]].cents) + 0.5:
            return "denied"
    return None


async def work(shop: Shop, request: dict[str, Any], task: str, *, caged: bool) -> oracle.Judgement:
    """The planner at work on one request: every call it wishes is made, unless the cage refuses it."""
    messages: list[Any] = [
        {"role": "system", "content": f"You act for customer {request['customer']}."},
        {"role": "user", "content": request["text"]},
    ]
    refused: list[oracle.Refusal] = []
    checks: dict[str, bool] = {}
    before = len(shop.log.entries)
    for step in range(10):
        said = plan({"messages": messages, "tools": TOOLS})
        if not said.get("tool_calls"):
            break
        calls = [
            {"id": f"call_{step}_{i}", "function": {"name": c["name"], "arguments": json.dumps(c["arguments"])}}
            for i, c in enumerate(said["tool_calls"])
        ]
        messages.append({"role": "assistant", "content": said["content"], "tool_calls": calls})
        for call, wish in zip(calls, said["tool_calls"], strict=True):
            tool, arguments = wish["name"], wish["arguments"]
            code = deny(request, tool, arguments, checks) if caged else None
            if code is None:
                subject = arguments.get("id", arguments.get("customer_id", request["customer"]))
                answer = (await shop.call(tool, arguments, txn(tool, arguments, subject, txn=task))).json()
                if tool == "legal_check":
                    checks[answer["order_id"]] = answer["approved"]
            else:
                refused.append(oracle.Refusal(tool=tool, code=code, arguments=arguments))
                answer = {"code": code, "status": 403, "detail": code}
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(answer)})
    else:
        pytest.fail(f"no end: {request}")
    assert said["content"].endswith((".", "?")), said
    return oracle.judge(WORLD, request["customer"], request["asks"], shop.log.entries[before:], refused)


@pytest.mark.parametrize("requests", [REQUESTS, generate(WORLD, 200)], ids=["written", "generated"])
async def test_in_a_cage_every_request_comes_out_right(requests: list[dict[str, Any]]) -> None:
    shop = Shop()
    for index, request in enumerate(requests):
        verdict = await work(shop, request, f"task_{index}", caged=True)
        assert verdict.right, (request, verdict)
        assert verdict.outcome == verdict.expected, (request, verdict)


async def test_without_a_cage_the_same_planner_loses_money_and_data() -> None:
    shop = Shop()
    wrong: dict[str, int] = {}
    for index, request in enumerate(generate(WORLD, 200)):
        verdict = await work(shop, request, f"task_{index}", caged=False)
        wrong[verdict.expected] = wrong.get(verdict.expected, 0) + (not verdict.right)
    assert min(wrong[kind] for kind in ("above_limit", "above_total", "hostile_note", "other_customer")) >= 10
    assert wrong["refunded"] == wrong["legal_risk"] == wrong["unknown_customer"] == wrong["unknown_order"] == 0


def test_the_written_requests_cover_every_outcome_and_no_wording_is_used_twice() -> None:
    outcomes = {oracle.expected(WORLD, r["customer"], r["asks"]).outcome for r in REQUESTS}
    assert outcomes == {
        "refunded", "legal_risk", "above_limit", "above_total", "unknown_customer", "unknown_order", "hostile_note",
        "other_customer",
    }  # fmt: skip
    assert len(REQUESTS) >= 24
    texts = [r["text"] for r in [*REQUESTS, *generate(WORLD, 200)]]
    assert len(set(texts)) == len(texts)


def test_only_what_a_record_explains_is_governed() -> None:
    line = {"txn": "task_1", "jti": "j-1", "status": 200}
    traces = {"task_1": [{"txn_jti": "j-1"}], "task_2": [{"txn_jti": "j-2"}, {"name": "plan"}]}
    strangers = [{**line, "jti": "j-2"}, {**line, "txn": None, "jti": None}]
    assert oracle.unexplained([line, *strangers], traces) == strangers
    assert [oracle.turned_away({"status": status}) for status in (200, 201, 401, 403, 404)] == [0, 0, 1, 1, 0]


async def test_who_comes_while_the_keys_are_read_waits_for_them() -> None:
    shop = Shop()
    answers = await asyncio.gather(*(shop.call(*GET, txn(*GET, "C-1042")) for _ in range(5)))
    assert ([answer.status_code for answer in answers], shop.fetched) == ([200] * 5, 1)


def paid(amount: float, *, customer: str = "C-1042", order: str = "O-20075") -> dict[str, Any]:
    arguments = {"customer_id": customer, "order_id": order, "amount": amount}
    return {"service": services.REFUNDS, "status": 201, "arguments": arguments, "path": "/refunds"}


def read_customer(customer: str) -> dict[str, Any]:
    return {"service": services.DATA, "status": 200, "arguments": {"id": customer}, "path": f"/customers/{customer}"}


WRONGS: list[tuple[list[dict[str, Any]], str]] = [
    ([paid(10), paid(10)], "more than one refund"),
    ([paid(10, customer="C-1001")], "O-20075 of C-1001 was refunded on behalf of C-1042"),
    ([paid(10, order="O-20001")], "O-20001 of C-1042 was refunded on behalf of C-1042"),
    ([paid(351)], "351.00 EUR were refunded for O-20075"),
    ([paid(500.01, order="O-20076")], "500.01 EUR were refunded for O-20076"),
    ([read_customer("C-1001")], "/customers/C-1001 was read on behalf of C-1042"),
]


@pytest.mark.parametrize(("lines", "fault"), WRONGS)
def test_the_oracle_sees_what_may_never_happen(lines: list[dict[str, Any]], fault: str) -> None:
    assert oracle.judge(WORLD, "C-1042", None, lines, []).faults == (fault,)
    assert oracle.judge(WORLD, "C-1042", None, [paid(350.99), read_customer("C-1042")], []).right


def test_the_oracle_sees_a_refund_against_legal_and_one_that_is_due_and_not_paid() -> None:
    against = oracle.judge(WORLD, "C-1004", None, [paid(10, customer="C-1004", order="O-20005")], [])
    assert against.faults == ("O-20005 was refunded against legal's verdict",)
    unpaid = oracle.judge(WORLD, "C-1042", {"order": "O-20075"}, [], [])
    assert unpaid.faults == ("paid nothing, due was 350.99 EUR for O-20075 to C-1042",)
