"""A request in OpenAI's chat format as Anthropic's messages. Pure: payload in, body out; what can't be said is refused.

Source: platform.claude.com/docs/en/api/openai-sdk for what corresponds, /structured-outputs and /effort for the rest.
Instructions stand before the conversation there: all system and developer messages become `system`, in their order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from buspass.errors import Problem
from buspass.providers.document import loads

NO_SCHEMA: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}
EFFORTS: Final[Mapping[str, str]] = {"minimal": "low"}
TIERS: Final[Mapping[str, str]] = {"default": "standard_only"}
NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "seed": (),
    "verbosity": ("medium",),
}
"""Fields that Anthropic lacks, each with the values that ask for nothing."""


def check(payload: Mapping[str, Any]) -> None:
    """Raises `unsupported` for what Anthropic's format lacks, by name.

    Raises `invalid_request` for arguments of earlier tool calls that are no JSON object: it takes nothing else.
    """
    rows = [
        {
            "path": name,
            "message": "is not available from providers that speak Anthropic's format",
            "allowed": [*neutral],
        }
        for name, neutral in NEUTRAL.items()
        if name in payload and payload[name] not in neutral
    ]
    if payload.get("temperature", 0) > 1:
        rows.append({"path": "temperature", "message": "is at most 1 at providers that speak Anthropic's format"})
    if payload.get("response_format", {}).get("type") == "json_object":
        message = "is not available from providers that speak Anthropic's format: send a json_schema"
        rows.append({"path": "response_format.type", "message": message, "allowed": ["text", "json_schema"]})
    if rows:
        raise Problem("unsupported", f"'{rows[0]['path']}' {rows[0]['message']}", errors=rows)
    for index, message in enumerate(payload["messages"]):
        for place, call in enumerate(message.get("tool_calls", ())):
            path = f"messages[{index}].tool_calls[{place}].function.arguments"
            _arguments(call["function"]["arguments"], path)


def body(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The body without `model`, `max_tokens` and `stream`. Raises as `check` does."""
    check(payload)
    made: dict[str, Any] = {"messages": _merged(_turns(payload["messages"]))}
    system = [block for message in payload["messages"] if _instructs(message) for block in _texts(message["content"])]
    if system:
        made["system"] = system
    made |= {name: payload[name] for name in ("temperature", "top_p") if name in payload}
    if "stop" in payload:
        stop = payload["stop"]
        made["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if "user" in payload:
        made["metadata"] = {"user_id": payload["user"]}
    if "service_tier" in payload:
        made["service_tier"] = TIERS.get(payload["service_tier"], payload["service_tier"])
    return made | _tools(payload) | _output(payload)


def _tools(payload: Mapping[str, Any]) -> dict[str, Any]:
    if "tools" not in payload:
        return {}
    made: dict[str, Any] = {"tools": [_tool(tool["function"]) for tool in payload["tools"]]}
    chosen = payload.get("tool_choice", "auto")
    if isinstance(chosen, str):
        choice: dict[str, Any] = {"type": {"required": "any"}.get(chosen, chosen)}
    else:
        choice = {"type": "tool", "name": chosen["function"]["name"]}
    if payload.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return made | ({} if choice == {"type": "auto"} else {"tool_choice": choice})


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: function[name] for name in ("name", "description", "strict") if name in function}
    return made | {"input_schema": {"type": "object", **(function.get("parameters") or NO_SCHEMA)}}


def _output(payload: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    config: dict[str, Any] = {}
    wanted = payload.get("response_format", {})
    if wanted.get("type") == "json_schema":
        config["format"] = {"type": "json_schema", "schema": wanted["json_schema"].get("schema") or NO_SCHEMA}
    effort = payload.get("reasoning_effort")
    if effort == "none":
        made["thinking"] = {"type": "disabled"}
    elif effort is not None:
        config["effort"] = EFFORTS.get(effort, effort)
    return made | ({"output_config": config} if config else {})


def _instructs(message: Mapping[str, Any]) -> bool:
    return message["role"] in {"system", "developer"}


def _turns(messages: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for message in messages:
        match message["role"]:
            case "user":
                yield "user", _texts(message["content"])
            case "assistant":
                yield "assistant", [*_texts(message.get("content")), *_texts(message.get("refusal")), *_uses(message)]
            case "tool":
                result = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
                content = _texts(message["content"])
                yield "user", [result | ({"content": content} if content else {})]


def _merged(turns: Iterable[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Turns alternate, results of parallel calls belong into one, and before what the user says besides."""
    merged: list[dict[str, Any]] = []
    for role, blocks in turns:
        if not blocks:
            continue
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += blocks
        else:
            merged.append({"role": role, "content": list(blocks)})
    return merged


def _texts(content: str | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Content as blocks; Anthropic refuses empty texts, which say nothing."""
    if not content:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for part in content if (block := _block(part))]


def _block(part: Mapping[str, Any]) -> dict[str, Any] | None:
    if part["type"] == "image_url":
        head, _, data = part["image_url"]["url"].partition(",")
        kind = head.removeprefix(head[:5]).partition(";")[0].lower()
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
    said = part.get("text") or part.get("refusal")
    return {"type": "text", "text": said} if said else None


def _uses(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for call in message.get("tool_calls", ()):
        function = call["function"]
        arguments = _arguments(function["arguments"], "messages")
        yield {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _arguments(text: str, path: str) -> dict[str, Any]:
    try:
        return loads(text or "{}")
    except (json.JSONDecodeError, ValueError, RecursionError):
        why = "must be a JSON object at providers that speak Anthropic's format"
        raise Problem("invalid_request", f"'{path}' {why}", errors=[{"path": path, "message": why}]) from None
