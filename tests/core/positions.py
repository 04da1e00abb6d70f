"""The largest request of each surface, and each text in it as a position at which a value can stand.

Positions are found, not listed: every string of the request, and every name of a member that an agent may choose.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA: Mapping[str, Any] = {
    "title": "t-title",
    "description": "t-schema-description",
    "type": "object",
    "properties": {
        "to": {"type": "string", "description": "t-property", "default": "t-default", "pattern": "t-pattern"},
        "n-property": {"enum": ["t-enum", "t-other-enum"], "const": "t-const", "examples": ["t-example"]},
    },
    "required": ["t-required"],
    "$defs": {"n-definition": {"$comment": "t-comment"}},
}


def chat() -> dict[str, Any]:
    function = {"name": "t-function", "arguments": '{"to": "t-arguments", "n-argument": 1}'}
    asked = {"id": "t-id", "type": "function", "function": function}
    return {
        "model": "plan",
        "messages": [
            {"role": "system", "content": "t-system", "name": "t-system-name"},
            {"role": "developer", "content": [{"type": "text", "text": "t-developer"}]},
            {"role": "user", "content": "t-user", "name": "t-user-name"},
            {"role": "assistant", "content": "t-assistant", "refusal": "t-refusal", "tool_calls": [asked]},
            {"role": "tool", "tool_call_id": "t-id", "content": "t-result"},
            {"role": "assistant", "content": [{"type": "text", "text": "t-said"}], "name": "t-assistant-name"},
            {"role": "user", "content": [{"type": "text", "text": "t-part"}]},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "t-tool", "description": "t-tool-description", "parameters": SCHEMA},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "t-tool"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "t-format", "description": "t-format-description", "schema": SCHEMA},
        },
        "stop": ["t-stop"],
        "user": "t-end-user",
        "metadata": {"n-label": "t-label"},
    }


def messages() -> dict[str, Any]:
    use = {"type": "tool_use", "id": "t-id", "name": "t-function", "input": {"to": "t-input", "n-input": ["t-item"]}}
    result = {"type": "tool_result", "tool_use_id": "t-id", "content": [{"type": "text", "text": "t-result"}]}
    return {
        "model": "plan",
        "max_tokens": 50,
        "system": [{"type": "text", "text": "t-system"}],
        "messages": [
            {"role": "user", "content": "t-user"},
            {"role": "assistant", "content": [{"type": "text", "text": "t-said"}, use]},
            {"role": "user", "content": [result, {"type": "text", "text": "t-part"}]},
            {"role": "assistant", "content": "t-assistant"},
            {"role": "user", "content": "t-last"},
        ],
        "tools": [{"name": "t-tool", "description": "t-tool-description", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "t-tool"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "stop_sequences": ["t-stop"],
        "metadata": {"user_id": "t-end-user"},
    }


BODIES = {"chat": chat, "messages": messages}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (name for name in value if name.startswith("n-"))
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def positions(surface: str) -> list[str]:
    """The marks of a surface's request, one a position: `t-…` texts, `n-…` names of members."""
    found = []
    for text in _texts(BODIES[surface]()):
        if text.startswith(("t-", "n-")):
            found.append(text)
        elif "t-arguments" in text:
            found += ["t-arguments", "n-argument"]
    return list(dict.fromkeys(found))


def having(surface: str, position: str, said: str, **more: Any) -> dict[str, Any]:
    """The request with `said` at one position; at the others stand harmless words."""
    return {**_put(copy.deepcopy(BODIES[surface]()), position, said), **more}


def _put(value: Any, position: str, said: str) -> Any:
    if isinstance(value, str):
        if "t-arguments" in value:  # a JSON text: what is put into it is written as JSON
            written = said.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
            return value.replace(position, written)
        return said if value == position else value
    if isinstance(value, dict):
        return {said if name == position else name: _put(part, position, said) for name, part in value.items()}
    return [_put(part, position, said) for part in value] if isinstance(value, list) else value
