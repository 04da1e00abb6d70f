"""Anthropic's messages format as a provider must read and write it: checks, ids, usage, errors.

Refuses to know HTTP servers, and what a mind thinks.
Source: https://platform.claude.com/docs/en/api/messages and the types of the official `anthropic` package.

Usage by a declared rule: a token is four UTF-8 bytes, rounded up; a picture counts 64. Input counts the compact JSON of
`system`, `messages` and `tools`, and is written to a cache as a whole where a mark asks for one; output counts texts,
thinking, and tools' names and input.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.responses import JSONResponse

from buspass.testing.provider_wire import PICTURE, Mind, tokens

PROMPT = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control"}
    | {"context_management", "speed"}
)
FIELDS = PROMPT | {
    "max_tokens",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "metadata",
    "service_tier",
    "stream",
}
BLOCKS: Mapping[str, set[str]] = {
    "text": {"type", "text", "cache_control"},
    "image": {"type", "source", "cache_control"},
    "tool_use": {"type", "id", "name", "input", "caller", "cache_control"},
    "tool_result": {"type", "tool_use_id", "content", "is_error", "cache_control"},
    "thinking": {"type", "thinking", "signature"},
    "redacted_thinking": {"type", "data"},
}


class Refused(Exception):  # noqa: N818 - this is what the provider does
    """An answer in Anthropic's error envelope."""

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.kind, self.text = status, kind, text

    def response(self) -> JSONResponse:
        error = {"type": self.kind, "message": self.text}
        return JSONResponse(
            {"type": "error", "error": error, "request_id": f"req_{secrets.token_hex(12)}"}, self.status
        )


def signature(thinking: str) -> str:
    """What this provider signs its thinking with; it takes no other back."""
    return base64.b64encode(hashlib.sha256(b"simulated" + thinking.encode()).digest()).decode()


def message(body: Mapping[str, Any], mind: Mind) -> dict[str, Any]:
    """The message that a mind's thought becomes. Raises `Refused` where the output does not fit the limit."""
    said = mind(body)
    content = _content(said)
    reason = "tool_use" if said.get("tool_calls") else "end_turn"
    room = body["max_tokens"] * 4
    if len(_written(content).encode()) > room:
        kept = (said.get("content") or "").encode()[:room].decode(errors="ignore")
        content, reason = [{"type": "text", "text": kept}] if kept else [], "max_tokens"
    given, made = input_tokens(body), tokens(_written(content).encode())
    marks = list(_marks(body))
    written = given if marks else 0
    long = written if any(mark.get("ttl") == "1h" for mark in marks) else 0
    thought = tokens("".join(block.get("thinking", "") for block in content).encode())
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": given - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": written - long, "ephemeral_1h_input_tokens": long},
            "output_tokens": made,
            "output_tokens_details": {"thinking_tokens": thought},
            "service_tier": "standard",
        },
    }


def _content(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if said.get("thinking"):
        thought = said["thinking"]
        blocks.append({"type": "thinking", "thinking": thought, "signature": signature(thought)})
    if said.get("content"):
        blocks.append({"type": "text", "text": said["content"]})
    for call in said.get("tool_calls") or ():
        name = f"toolu_{secrets.token_hex(12)}"
        blocks.append({"type": "tool_use", "id": name, "name": call["name"], "input": call["arguments"]})
    return blocks


def _written(content: list[dict[str, Any]]) -> str:
    texts = [block.get("text", "") + block.get("thinking", "") + block.get("name", "") for block in content]
    return "".join(texts) + "".join(json.dumps(block["input"]) for block in content if "input" in block)


def input_tokens(body: Mapping[str, Any]) -> int:
    seen = {name: body[name] for name in ("system", "messages", "tools") if name in body}
    pictures = [block for block in _blocks(body) if block["type"] == "image"]
    text = json.dumps(seen, separators=(",", ":"), ensure_ascii=False)
    spared = sum(len(block["source"]["data"]) for block in pictures)
    return -(-(len(text.encode()) - spared) // 4) + PICTURE * len(pictures)


def _blocks(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for turn in body["messages"]:
        for block in turn["content"] if isinstance(turn["content"], list) else ():
            yield block
            inner = block.get("content")
            yield from inner if isinstance(inner, list) else ()


def _marks(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    system = body.get("system")
    holders = [body, *(body.get("tools") or ()), *(system if isinstance(system, list) else ()), *_blocks(body)]
    yield from (holder["cache_control"] for holder in holders if holder.get("cache_control"))


SAMPLING = {"temperature", "top_p", "top_k"}


def parse(raw: bytes, *, counting: bool = False, sampling: bool = False) -> dict[str, Any]:
    """A request's body, as strictly judged as the real API does. Raises `Refused`.

    `sampling`: the API's version still knows the parameters of that.
    """
    try:
        body = json.loads(raw)
    except ValueError:
        raise _invalid("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise _invalid("The request body must be an object")
    for name in body:
        if name not in (PROMPT if counting else FIELDS if sampling else FIELDS - SAMPLING):
            raise _invalid(f"{name}: Extra inputs are not permitted")
    for name in ("model", "messages") if counting else ("model", "messages", "max_tokens"):
        if name not in body:
            raise _invalid(f"{name}: Field required")
    if not isinstance(body["messages"], list) or not body["messages"]:
        raise _invalid("messages: at least one message is required")
    if body.get("temperature") is not None and not 0 <= body["temperature"] <= 1:
        raise _invalid("temperature: range: 0..1")
    _check_turns(body["messages"])
    _check_tools(body.get("tools") or [])
    return body


def _check_tools(tools: list[Any]) -> None:
    for index, tool in enumerate(tools):
        if tool.get("type", "custom") != "custom" or tool.get("input_schema", {}).get("type") != "object":
            raise _invalid(f"tools.{index}.input_schema.type: Field required")


def _check_turns(turns: list[Any]) -> None:
    waiting: set[str] = set()
    for index, turn in enumerate(turns):
        where = f"messages.{index}"
        if turn.get("role") not in {"user", "assistant", "system"}:
            raise _invalid(f"{where}.role: unexpected role")
        content = turn.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for place, block in enumerate(blocks):
            _check_block(block, f"{where}.content.{place}")
        answered = {block["tool_use_id"] for block in blocks if block["type"] == "tool_result"}
        if answered != waiting:
            raise _invalid(f"{where}: `tool_use` ids were found without `tool_result` blocks, or the other way round")
        waiting = {block["id"] for block in blocks if block["type"] == "tool_use"}
    if waiting:
        raise _invalid("messages: `tool_use` ids were found without `tool_result` blocks immediately after")


def _check_block(block: Mapping[str, Any], where: str) -> None:
    kind = block.get("type", "")
    if kind not in BLOCKS:
        raise _invalid(f"{where}.type: Input tag '{kind}' found using 'type' does not match any of the expected tags")
    for name in block.keys() - BLOCKS[kind]:
        raise _invalid(f"{where}.{kind}.{name}: Extra inputs are not permitted")
    if kind == "text" and not block["text"]:
        raise _invalid(f"{where}: text content blocks must be non-empty")
    if kind == "thinking" and block["signature"] != signature(block["thinking"]):
        raise _invalid(f"{where}: Invalid `signature` in `thinking` block")
    if kind == "tool_use" and not isinstance(block["input"], dict):
        raise _invalid(f"{where}.tool_use.input: Input should be an object")


def _invalid(text: str) -> Refused:
    return Refused(400, "invalid_request_error", text)
