"""OpenAI's chat completions format as a provider must read and write it: checks, ids, usage, errors.

Refuses to know HTTP servers, and what a mind thinks.
Source: https://platform.openai.com/docs/api-reference/chat and the types of the official `openai` package.

Usage by a declared rule: a token is four UTF-8 bytes, rounded up. Input counts the compact JSON of `messages`
and `tools`; output counts content, function names and arguments. So bytes always bound the tokens. A picture counts 64.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse

type Mind = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the request's body to `{content?: text, tool_calls?: [{name, arguments: object}]}`."""

FIELDS = frozenset(
    {
        "messages",
        "model",
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
MESSAGE_FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "assistant": {
        "role",
        "content",
        "name",
        "refusal",
        "tool_calls",
        "audio",
        "annotations",
        "function_call",
    },
    "tool": {"role", "content", "tool_call_id"},
}


class Refused(Exception):  # noqa: N818 - this is what the provider does
    """An answer in OpenAI's error envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.kind = status, message, code, param, kind

    def response(self) -> JSONResponse:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status)


def text_of(content: Any) -> str:
    """A message's text, whether it is a string or a list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def tokens(data: bytes) -> int:
    """Four bytes a token, rounded up: the declared rule."""
    return -(-len(data) // 4)


PICTURE = 64
"""Tokens of a picture: below every real formula's answer."""


def _without_pictures(value: Any) -> tuple[Any, int]:
    """A value with the data of its pictures taken out, and how many there were."""
    if isinstance(value, str):
        return ("", 1) if value.startswith("data:image/") else (value, 0)
    if isinstance(value, list):
        kept = [_without_pictures(each) for each in value]
        return [each for each, _ in kept], sum(n for _, n in kept)
    if isinstance(value, dict):
        held = {name: _without_pictures(each) for name, each in value.items()}
        return {name: each for name, (each, _) in held.items()}, sum(n for _, n in held.values())
    return value, 0


def completion(body: Mapping[str, Any], mind: Mind) -> dict[str, Any]:
    """The chat completion object that a mind's message becomes, cut at the request's output limit."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    choices, output = [], 0
    for index in range(body.get("n") or 1):
        message, reason, used = _choice(mind(body), limit)
        output += used
        choices.append({"index": index, "message": message, "finish_reason": reason, "logprobs": None})
    seen, pictures = _without_pictures({"messages": body["messages"], "tools": body.get("tools") or []})
    prompt = tokens(json.dumps(seen, separators=(",", ":"), ensure_ascii=False).encode()) + PICTURE * pictures
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": output,
            "total_tokens": prompt + output,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "service_tier": "default",
        "system_fingerprint": "fp_buspass",
    }


def _choice(said: Mapping[str, Any], limit: int | None) -> tuple[dict[str, Any], str, int]:
    """The assistant message, its finish reason and its tokens."""
    room: int | None = None if limit is None else limit * 4
    content: str | None = None
    cut = False
    if said.get("content") is not None:
        content, room, cut = _cut(said["content"], room)
    calls: list[dict[str, Any]] = []
    for call in said.get("tool_calls") or ():
        text = json.dumps(call["arguments"], ensure_ascii=False)
        arguments, room, short = _cut(text, room, len(call["name"]))
        cut = cut or short
        if short and not arguments:
            break
        function = {"name": call["name"], "arguments": arguments}
        calls.append({"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function})
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    if calls:
        message["tool_calls"] = calls
    written = (content or "") + "".join(c["function"]["name"] + c["function"]["arguments"] for c in calls)
    reason = "length" if cut else "tool_calls" if calls else "stop"
    return message, reason, tokens(written.encode())


def _cut(text: str, room: int | None, extra: int = 0) -> tuple[str, int | None, bool]:
    """As much of a text as `room` bytes hold after `extra`; the room left; whether something is missing."""
    if room is None:
        return text, room, False
    data, room = text.encode(), max(0, room - extra)
    kept = data[:room].decode(errors="ignore")
    return kept, room - len(kept.encode()), len(kept) < len(text)


def parse(raw: bytes) -> dict[str, Any]:
    """A chat request's body, as strictly judged as the real API does. Raises `Refused`."""
    try:
        body = json.loads(raw)
    except ValueError:
        raise Refused(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise Refused(400, "The request body must be a JSON object.")
    for name in body:
        if name not in FIELDS:
            raise Refused(400, f"Unknown parameter: '{name}'.", code="unknown_parameter", param=name)
    for name, kind in (("model", str), ("messages", list)):
        if name not in body:
            raise Refused(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)
        if not isinstance(body[name], kind):
            raise Refused(400, f"Invalid type for '{name}'.", code="invalid_type", param=name)
    _check_values(body)
    _check_tools(body.get("tools"))
    _check_messages(body["messages"])
    return body


def _check_values(body: Mapping[str, Any]) -> None:
    if body.get("stream_options") is not None and not body.get("stream"):
        raise Refused(400, "'stream_options' is only allowed when 'stream' is enabled.", param="stream_options")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise Refused(400, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    for name in ("max_tokens", "max_completion_tokens", "n"):
        value = body.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise Refused(400, f"Invalid '{name}': expected a positive integer.", code="invalid_value", param=name)
    if body.get("tool_choice") is not None and not body.get("tools"):
        raise Refused(400, "'tool_choice' is only allowed when 'tools' are specified.", param="tool_choice")


def _check_tools(tools: Any) -> None:
    if tools is None:
        return
    if not isinstance(tools, list) or not tools:
        raise Refused(400, "Invalid 'tools': expected a non-empty array.", code="empty_array", param="tools")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict):
            raise Refused(400, f"Invalid value: '{where}'.", code="invalid_value", param=where)
        _only(tool, {"type", "function"}, where)
        _only(function, {"name", "description", "parameters", "strict"}, f"{where}.function")
        if not isinstance(function.get("name"), str):
            raise Refused(400, f"Missing required parameter: '{where}.function.name'.", param=where)


def _only(part: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for name in sorted(part.keys() - allowed):
        path = f"{where}.{name}"
        raise Refused(400, f"Unknown parameter: '{path}'.", code="unknown_parameter", param=path)


def _check_messages(messages: list[Any]) -> None:
    if not messages:
        raise Refused(400, "Invalid 'messages': empty array.", code="empty_array", param="messages")
    waiting: set[str] = set()
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in MESSAGE_FIELDS:
            raise Refused(400, f"Invalid value: '{where}.role'.", code="invalid_value", param=where)
        _only(message, MESSAGE_FIELDS[role], where)
        waiting = _check_turn(message, role, waiting, where)
    if waiting:
        raise _unanswered(f"messages[{len(messages)}]", waiting)


def _check_turn(message: Mapping[str, Any], role: str, waiting: set[str], where: str) -> set[str]:
    """The tool calls still to be answered after this message."""
    content = message.get("content")
    if content is None and not (role == "assistant" and message.get("tool_calls")):
        raise Refused(400, f"Invalid value for 'content': expected a string, got null ({where}).", param=where)
    if content is not None and not isinstance(content, str | list):
        raise Refused(400, f"Invalid type for '{where}.content'.", code="invalid_type", param=where)
    if role == "tool":
        if message.get("tool_call_id") not in waiting:
            raise Refused(
                400,
                "Invalid parameter: messages with role 'tool' must be a response to a preceding message with"
                " 'tool_calls'.",
                param=f"{where}.role",
            )
        return waiting - {message["tool_call_id"]}
    if waiting:
        raise _unanswered(where, waiting)
    return {call["id"] for call in message.get("tool_calls") or ()}


def _unanswered(where: str, waiting: set[str]) -> Refused:
    return Refused(
        400,
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
        f" 'tool_call_id'. Missing: {', '.join(sorted(waiting))}",
        param=where,
    )
