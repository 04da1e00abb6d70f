"""What stands behind the gateway of `buspass up` without a configuration: a model and a small warehouse, simulated.

Owns the stock, and a mind that answers from the conversation alone: it looks for article numbers (S-100) and for what
is wanted of them. Both at one loopback port, the model at `/v1`, the warehouse at `/stock` and `/reservations`. Ends
when its standard input does, so that it never outlives whoever started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from buspass.testing.loopback import serve
from buspass.testing.provider import Provider
from buspass.testing.provider_wire import text_of

MODEL: Final = "clerk-1"
KEY: Final = "BUSPASS_EXAMPLE_KEY"
"""The environment variable with the provider's key."""
STOCK: Final = {"S-100": ("kettle", 12), "S-200": ("toaster", 3), "S-300": ("lamp", 0)}
ARTICLE: Final = re.compile(r"\bS-\d{3}\b", re.IGNORECASE)
WANTED: Final = re.compile(r"\b(reserve|set aside|put by|hold|book)\b", re.IGNORECASE)
NUMBER: Final = re.compile(r"(?<![\w-])(\d{1,3})(?!\w)")


def think(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Say the next thing: look the article up, then reserve it if that was asked for and it is there."""
    messages = request["messages"]
    start = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
    asked = text_of(messages[start].get("content"))
    offered = {tool["function"]["name"] for tool in request.get("tools") or ()}
    found = ARTICLE.search(asked)
    if found is None:
        return {"content": "I am the warehouse's clerk. Ask me about an article, such as S-100."}
    article = found[0].upper()
    results = [_result(message) for message in messages[start:] if message["role"] == "tool"]
    if not results:
        if "get_stock" not in offered:
            return {"content": f"I would look {article} up, but I was given no tool for that."}
        call = {"name": "get_stock", "arguments": {"article": article}}
        return {"content": f"I look up how many of {article} there are.", "tool_calls": [call]}
    return _after(asked, article, results, reserving="reserve_stock" in offered)


def _after(asked: str, article: str, results: list[dict[str, Any]], *, reserving: bool) -> Mapping[str, Any]:
    last = results[-1]
    if "code" in last:
        return {"content": f"That was refused: {last['code']}. {last.get('detail', '')}".strip()}
    if "reservation" in last:
        return {"content": f"Done: {last['quantity']} of {article} are reserved under {last['reservation']}."}
    if not last.get("in_stock"):
        return {"content": f"There is no {article} in stock."}
    if reserving and WANTED.search(asked):
        amount = NUMBER.search(ARTICLE.sub("", asked))
        call = {"name": "reserve_stock", "arguments": {"article": article, "quantity": int(amount[1]) if amount else 1}}
        return {"content": f"There are {last['quantity']}, so I reserve what was asked for.", "tool_calls": [call]}
    return {"content": f"There are {last['quantity']} of {article} ({last['name']}) in stock."}


def _result(message: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads(text_of(message.get("content")))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Warehouse:
    """The service behind the tools: what is in stock, and what was reserved."""

    def __init__(self) -> None:
        self.quantity = {article: quantity for article, (_, quantity) in STOCK.items()}
        self.reservations = 0
        self.routes = [
            Route("/stock/{article}", self.stock),
            Route("/reservations", self.reserve, methods=["POST"]),
        ]

    async def stock(self, request: Request) -> Response:
        article = request.path_params["article"]
        if article not in STOCK:
            return JSONResponse({"article": article, "in_stock": False, "error": "no such article"}, 404)
        quantity = self.quantity[article]
        return JSONResponse(
            {"article": article, "name": STOCK[article][0], "quantity": quantity, "in_stock": quantity > 0}
        )

    async def reserve(self, request: Request) -> Response:
        asked = await request.json()
        article, quantity = asked["article"], asked["quantity"]
        if self.quantity.get(article, 0) < quantity:
            return JSONResponse({"article": article, "error": "not so many"}, 409)
        self.quantity[article] -= quantity
        self.reservations += 1
        return JSONResponse({"reservation": f"R-{self.reservations}", "article": article, "quantity": quantity})


def application(key: str) -> Starlette:
    """Give the model and the warehouse at one address."""
    provider = Provider(key, models=(MODEL,), mind=think)
    return Starlette(routes=[*Warehouse().routes, Mount("/", provider.app)])


async def _run(key: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watch = asyncio.create_task(_until_end(reader))
    await serve(application(key), port=port)
    watch.cancel()


async def _until_end(reader: asyncio.StreamReader) -> None:
    await reader.read()
    signal.raise_signal(signal.SIGTERM)


def main() -> None:
    """Serve until standard input ends, or SIGTERM. The model's key is in BUSPASS_EXAMPLE_KEY."""
    parser = argparse.ArgumentParser(description="The simulated model and tools of `buspass up`'s example.")
    parser.add_argument("--port", type=int, default=0, help="0 (default) takes a free one")
    asyncio.run(_run(os.environ[KEY], parser.parse_args().port))


if __name__ == "__main__":
    main()
