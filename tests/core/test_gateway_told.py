"""What a record tells of an inference: tokens by kind and whose price; and what passes through byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from buspass.testing.house import Agent, Domain
from buspass.testing.provider_anthropic import AnthropicProvider

DATA = Path(__file__).parents[1] / "data"
MESSAGES = "/v1/messages"
THOUGHT = 'Hm.\n\u00e9 \u2014 \U0001f600 <EMAIL_12345678> \\n "x" \u2028 Let me see'


async def inferences(agent: Agent) -> list[dict[str, Any]]:
    records = (await agent.get("/trace")).json()["records"]
    return [row for row in records if row["kind"] == "inference"]


async def test_a_record_tells_cached_and_reasoning_tokens_and_the_version_of_its_price(
    streaming: Domain, upstream: Any
) -> None:
    upstream.script.append(JSONResponse(json.loads((DATA / "openai/cached_and_reasoning.json").read_text())))
    agent = await streaming.agent()
    answer = await agent.chat(model="fed")
    assert answer.status_code == 200, answer.text
    (record,) = await inferences(agent)
    assert record["usage"] == {"input": 2006, "output": 300, "cached": 1920, "cache_write": 0, "reasoning": 256}
    target = streaming.apps["onprem"].house.settings.models["fed"].targets[0]
    assert target.price is not None
    assert record["price"] == target.price.version
    assert record["price"] != "none"
    assert record["cost"] == pytest.approx((2006 * 2 + 300 * 20) / 1e6), "cached input has no price of its own here"
    assert record["attempts"] == 1


def said(answer: httpx.Response) -> list[dict[str, Any]]:
    """The content blocks of an answer, whole or put together from its stream."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return list(answer.json()["content"])
    blocks: list[dict[str, Any]] = []
    for line in answer.text.split("\n"):
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            (member,) = set(event["delta"]) - {"type"}
            blocks[event["index"]][member] = blocks[event["index"]].get(member, "") + event["delta"][member]
    return blocks


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_signed_thinking_passes_both_ways_byte_for_byte_in_a_workflow_with_rules(
    inspected: Domain, claude: AnthropicProvider, stream: bool
) -> None:
    claude.mind = lambda _: {"thinking": THOUGHT, "content": "done"}
    agent = await inspected.agent(workflow="restored")
    asked: dict[str, Any] = {"model": "claude", "max_tokens": 100, "stream": stream}
    asked["messages"] = [{"role": "user", "content": "write to alice@example.com"}]
    first = await agent.client.post(MESSAGES, json=asked, headers=agent.headers)
    assert first.status_code == 200, first.text
    blocks = said(first)
    assert blocks[0]["thinking"] == THOUGHT
    asked["messages"] += [{"role": "assistant", "content": blocks}, {"role": "user", "content": "go on"}]
    again = await agent.client.post(MESSAGES, json=asked, headers=agent.headers)
    assert again.status_code == 200, "the provider has checked the signature"
    sent = json.loads(inspected.outbound.requests[-1].body)["messages"][1]["content"][0]
    assert sent == {"type": "thinking", "thinking": THOUGHT, "signature": blocks[0]["signature"]}
