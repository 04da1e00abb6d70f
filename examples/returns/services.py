"""The services behind the tools: customers and orders, legal checks, refunds. Three small HTTP applications.

Each judges the `Txn-Token` of every request before it does anything, and logs every request, refused ones too. They
refuse to know the gateway but by its published keys; what they trust is in the token, never in the caller's word.
The refund service pays what it is told: limits, order and prerequisites are the gateway's to keep.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from returns.txn import Refused, TxnVerifier
from returns.world import World, legal_verdict
from staging.serving import RequestLog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

DATA, LEGAL, REFUNDS = "data.returns.example", "legal.returns.example", "refunds.returns.example"

type Arguments = dict[str, Any]
type Handler = Callable[[Arguments, Mapping[str, str]], tuple[int, dict[str, Any]]]


class Service:
    """A named service: verifies, handles, logs. `audience` is what a token's `tctx.audience` must say."""

    def __init__(self, audience: str, verifier: TxnVerifier, log: RequestLog) -> None:
        self.audience, self.verifier, self.log = audience, verifier, log

    def route(self, path: str, method: str, tool: str, handler: Handler, renames: Mapping[str, str]) -> Route:
        """`renames`: path parameter → the tool's argument name."""

        async def answer(request: Request) -> Response:
            seen: dict[str, Any] = {}
            try:
                arguments = await _arguments(request, renames)
                seen["arguments"] = arguments
                claims = await self.verifier.verify(
                    request.headers.get("txn-token"),
                    audience=self.audience,
                    tool=tool,
                    method=method,
                    arguments=arguments,
                    seen=seen,
                )
                _own_customer(arguments, claims)
                seen["customer"] = claims["sub"].partition(":")[2]
                status, body = handler({**arguments, "subject": seen["customer"]}, request.headers)
            except Refused as refused:
                status, body = refused.status, {"error": refused.code, "message": str(refused)}
            self._note(request, status, seen, body)
            return JSONResponse(body, status)

        return Route(path, answer, methods=[method])

    def _note(self, request: Request, status: int, seen: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        self.log.write(
            {
                "time": time.time(),
                "service": self.audience,
                "method": request.method,
                "path": request.url.path,
                "status": status,
                "txn": seen.get("txn"),
                "jti": seen.get("jti"),
                "customer": seen.get("customer"),
                "arguments": seen.get("arguments"),
                "idempotency_key": request.headers.get("idempotency-key"),
                "traceparent": request.headers.get("traceparent"),
                "answer": None if self.audience == DATA and status == 200 else dict(body),  # no personal data in logs
                "why": body.get("message", ""),
            }
        )


async def _arguments(request: Request, renames: Mapping[str, str]) -> Arguments:
    """What a caller asks for, under the names that the tool gives it: path parameters, query or JSON body."""
    arguments: Arguments = {renames.get(k, k): v for k, v in request.path_params.items()}
    if request.method == "GET":
        return arguments | dict(request.query_params)
    try:
        body = json.loads(await request.body())
    except ValueError:
        raise Refused(400, "invalid_request", "the body is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "invalid_request", "the body is not a JSON object")
    return arguments | body


def _own_customer(arguments: Arguments, claims: Mapping[str, Any]) -> None:
    """Whoever asks for a customer must act for that customer."""
    asked = arguments.get("customer_id", arguments.get("id"))
    if asked is not None and claims["sub"] != f"customer:{asked}":
        raise Refused(403, "wrong_subject", f"the token acts for {claims['sub']}, not for customer:{asked}")


def data_service(world: World, verifier: TxnVerifier, log: RequestLog) -> Starlette:
    """Customers and their orders."""

    def customer(asked: Arguments, _: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        found = world.customers.get(asked["id"])
        if found is None:
            return 404, {"error": "unknown_customer", "message": f"no customer {asked['id']}"}
        return 200, {
            "customer_id": found.id,
            "name": found.name,
            "email": found.email,
            "since": found.since,
            "orders": list(found.orders),
        }

    def order(asked: Arguments, _: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        found = world.order_of(asked["customer_id"], asked["order_id"])
        if found is None:
            return 404, {"error": "unknown_order", "message": f"no order {asked['order_id']} of this customer"}
        return 200, {
            "order_id": found.id,
            "customer_id": found.customer,
            "item": found.item,
            "placed": found.placed,
            "status": found.status,
            "total": found.cents / 100,
            "total_cents": found.cents,
            "notes": list(found.notes),
        }

    service = Service(DATA, verifier, log)
    orders = "/customers/{customer_id}/orders/{order_id}"
    return Starlette(
        routes=[
            service.route(orders, "GET", "get_order", order, {}),
            service.route("/customers/{customer_id}", "GET", "get_customer", customer, {"customer_id": "id"}),
        ]
    )


def legal_service(
    world: World, verifier: TxnVerifier, log: RequestLog, *, delay: Callable[[], Awaitable[None]] | None = None
) -> Starlette:
    """Legal's verdicts. `delay` is awaited before each answer: a slow check for tests of races."""

    def check(asked: Arguments, _: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        approved, why = legal_verdict(world, asked["subject"], asked["order_id"])
        return 200, {"approved": approved, "order_id": asked["order_id"], "reason": why}

    service = Service(LEGAL, verifier, log)
    app = Starlette(routes=[service.route("/legal/checks", "POST", "legal_check", check, {})])
    if delay is not None:
        app.add_middleware(_Delayed, delay=delay)
    return app


class _Delayed:
    def __init__(self, app: Any, delay: Callable[[], Awaitable[None]]) -> None:
        self.app, self.delay = app, delay

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.delay()
        await self.app(scope, receive, send)


def refund_service(verifier: TxnVerifier, log: RequestLog) -> Starlette:
    """Pays money back. The same Idempotency-Key gets the same receipt, and pays once."""
    receipts: dict[str, tuple[Arguments, dict[str, Any]]] = {}

    def refund(asked: Arguments, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        wanted = {name: asked.get(name) for name in ("customer_id", "order_id", "amount", "reason")}
        amount = wanted["amount"]
        if not isinstance(amount, int | float) or isinstance(amount, bool) or round(amount, 2) != amount or amount <= 0:
            raise Refused(422, "invalid_amount", "the amount must be positive, with at most two decimals")
        key = headers.get("idempotency-key") or secrets.token_hex(8)
        if key in receipts:
            before, receipt = receipts[key]
            if before != wanted:
                raise Refused(422, "idempotency_mismatch", "this key paid something else")
            return 200, receipt
        receipt = {
            "refund_id": f"R-{secrets.token_hex(4)}",
            "order_id": wanted["order_id"],
            "amount": amount,
            "status": "paid",
        }
        receipts[key] = (wanted, receipt)
        return 201, receipt

    service = Service(REFUNDS, verifier, log)
    return Starlette(routes=[service.route("/refunds", "POST", "refund", refund, {})])


def slow(seconds: float) -> Callable[[], Awaitable[None]]:
    """A delay of so many seconds."""
    return lambda: asyncio.sleep(seconds)
