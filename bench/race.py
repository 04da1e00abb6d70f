"""The budget race: 200 calls at once against a budget for 40, with an upstream slower than the burst.

The upstream bills each call that reaches it with exactly what the call may cost at most, so a budget for 40 is for 40.
Owns the race and the sum. Refuses to judge it.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from held import Held
from hotpath import answer, asking, chat
from sides import PRICE, Side

CALLS, BUDGET, OUTPUT = 200, 40, 256


def usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": tokens - OUTPUT, "completion_tokens": OUTPUT, "total_tokens": tokens}


def cost(tokens: int) -> float:
    """USD of one call."""
    return ((tokens - OUTPUT) * PRICE["input"] + OUTPUT * PRICE["output"]) / 1e6


def billing(tokens: int) -> bytes:
    head, _, body = answer().partition(b"\r\n\r\n")
    document = json.dumps({**json.loads(body), "usage": usage(tokens)}).encode()
    head = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % len(document))
    return head + b"\r\n\r\n" + document


def size(side: Side) -> int:
    """Tokens that one call holds: a task that can't pay for one is told."""
    token = side.task({"workflow": "bench", "budget": {"tokens": 1}})
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    url, body = f"http://127.0.0.1:{side.port}/v1/chat/completions", json.dumps(chat(600)).encode()
    try:
        urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers))
    except urllib.error.HTTPError as refused:
        return int(json.load(refused)["error"]["needed"])
    raise AssertionError("a call that can't be paid was made")


def race(load: Held, side: Side, tokens: int, *, budgeted: str, bounded: bool = True) -> dict[str, Any]:
    """Run it once with a token or key whose budget is for 40; `bounded`: with max_tokens."""
    document = {**chat(600), "model": side.model}
    if not bounded:
        del document["max_tokens"]
    request = asking(side.port, side.path, budgeted, document)
    load.answering(billing(tokens))
    try:
        result, under_way = load.burst(side.port, [request] * CALLS)
    finally:
        load.answering(answer())
    refused = {status.decode(): count for status, count in result.statuses.items() if status != b"200"}
    admitted = load.arrived
    return {
        "side": side.name,
        "max_tokens": bounded,
        "calls": CALLS,
        "admitted": admitted,
        "under_way_at_once": under_way,
        "refused": refused,
        "billed_usd": round(admitted * cost(tokens), 6),
        "cap_usd": round(BUDGET * cost(tokens), 6),
        "overspent_usd": round(max(0, admitted - BUDGET) * cost(tokens), 6),
        "usable": round(min(admitted, BUDGET) / BUDGET, 4),
    }
