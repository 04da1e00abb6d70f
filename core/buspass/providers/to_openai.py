"""A request in Anthropic's messages format as OpenAI's chat. Pure: payload in, body out; what can't be said is refused.

Left out, as they ask for nothing that another provider could give: cache marks (a hint), thinking blocks (signed by who
made them), context editing (it edits the provider's own cache), eager streaming, examples of tool input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from buspass.errors import Problem

MOST_STOPS: Final = 4
CHOICES: Final[Mapping[str, str]] = {"auto": "auto", "any": "required", "none": "none"}
TIERS: Final[Mapping[str, str]] = {"standard_only": "default"}
BUDGETS: Final = ((2048, "low"), (8192, "medium"))
"""Most thinking tokens for an effort; above the last it is high."""
FORMAT_NAME: Final = "answer"
FAILED: Final = "Error: "
"""OpenAI's tool messages have no mark of failure: it is said in words."""


def check(payload: Mapping[str, Any]) -> None:
    """Raises `unsupported` for what OpenAI's format lacks, by name."""
    rows = []
    if "top_k" in payload:
        rows.append({"path": "top_k", "message": "is not available from providers that speak OpenAI's format"})
    if len(payload.get("stop_sequences", ())) > MOST_STOPS:
        message = f"has at most {MOST_STOPS} items at providers that speak OpenAI's format"
        rows.append({"path": "stop_sequences", "message": message})
    if rows:
        raise Problem("unsupported", f"'{rows[0]['path']}' {rows[0]['message']}", errors=rows)


def body(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The body without `model`, the output's limit and `stream`. Raises as `check` does."""
    check(payload)
    made: dict[str, Any] = {"messages": [*_system(payload.get("system")), *_messages(payload["messages"])]}
    made |= {name: payload[name] for name in ("temperature", "top_p") if name in payload}
    if payload.get("stop_sequences"):
        made["stop"] = payload["stop_sequences"]
    if payload.get("metadata", {}).get("user_id"):
        made["user"] = payload["metadata"]["user_id"]
    if "service_tier" in payload:
        made["service_tier"] = TIERS.get(payload["service_tier"], payload["service_tier"])
    return made | _tools(payload) | _output(payload)


def _tools(payload: Mapping[str, Any]) -> dict[str, Any]:
    if not payload.get("tools"):
        return {}
    made: dict[str, Any] = {"tools": [_tool(tool) for tool in payload["tools"]]}
    choice = payload.get("tool_choice")
    if choice is None:
        return made
    named = choice["type"] == "tool"
    made["tool_choice"] = (
        {"type": "function", "function": {"name": choice["name"]}} if named else CHOICES[choice["type"]]
    )
    if choice.get("disable_parallel_tool_use"):
        made["parallel_tool_calls"] = False
    return made


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {name: tool[name] for name in ("name", "description", "strict") if name in tool}
    return {"type": "function", "function": {**function, "parameters": tool["input_schema"]}}


def _output(payload: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    config, thinking = payload.get("output_config", {}), payload.get("thinking", {})
    if "format" in config:
        schema = {"name": FORMAT_NAME, "schema": config["format"]["schema"], "strict": True}
        made["response_format"] = {"type": "json_schema", "json_schema": schema}
    if "effort" in config:
        made["reasoning_effort"] = config["effort"]
    elif "budget_tokens" in thinking:
        fitting = [effort for most, effort in BUDGETS if thinking["budget_tokens"] <= most]
        made["reasoning_effort"] = [*fitting, "high"][0]
    return made


def _system(content: str | Sequence[Mapping[str, Any]] | None) -> Iterator[dict[str, Any]]:
    if content:
        yield {"role": "system", "content": _text(content)}


def _messages(messages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        content = message["content"]
        match message["role"]:
            case "system":
                yield from _system(content)
            case "assistant":
                yield from _said(content)
            case _:
                yield from _asked([{"type": "text", "text": content}] if isinstance(content, str) else content)


def _asked(blocks: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Results first, each a message of its own; then the rest, and the pictures that no tool message can hold."""
    shown: list[dict[str, Any]] = []
    for block in blocks:
        if block["type"] != "tool_result":
            shown.append(_part(block))
            continue
        content = block.get("content", "")
        inner = [] if isinstance(content, str) else content
        shown += [_part(each) for each in inner if each["type"] == "image"]
        said = _text(content)
        yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": _marked(said, block)}
    if shown:
        plain = len(shown) == 1 and shown[0]["type"] == "text"
        yield {"role": "user", "content": shown[0]["text"] if plain else shown}


def _marked(said: str, block: Mapping[str, Any]) -> str:
    return FAILED + said if block.get("is_error") else said


def _said(content: str | Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    calls = [] if isinstance(content, str) else [_call(block) for block in content if block["type"] == "tool_use"]
    text = _text(content)
    if calls:
        yield {"role": "assistant", "content": text or None, "tool_calls": calls}
    elif text:
        yield {"role": "assistant", "content": text}


def _call(block: Mapping[str, Any]) -> dict[str, Any]:
    arguments = json.dumps(block["input"], ensure_ascii=False)
    return {"id": block["id"], "type": "function", "function": {"name": block["name"], "arguments": arguments}}


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    if block["type"] == "image":
        source = block["source"]
        return {"type": "image_url", "image_url": {"url": f"data:{source['media_type']};base64,{source['data']}"}}
    return {"type": "text", "text": block["text"]}


def _text(content: str | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")
