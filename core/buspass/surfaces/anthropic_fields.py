"""Anthropic's messages as agents write them: the allow-list of a request's fields and content blocks, as tables.

Source: platform.claude.com/docs/en/api/messages and the types of the official `anthropic` package.
What is not in these tables is refused by name. Knows no provider and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from buspass.surfaces import fields, measure
from buspass.surfaces.fields import Check, Report, array, boolean, choice, either, integer, number, record, tagged, text

MOST_OUTPUT: Final = 2**24
"""Tokens: above every model there is, and small enough that no product of it leaves an account's range."""
TOOL_NAME: Final = text(pattern=r"[a-zA-Z0-9_-]{1,128}")
CALL_ID: Final = text(pattern=r"[a-zA-Z0-9_-]{1,256}")
HOSTED: Final = "names a tool that the provider runs itself, which is not available: declare it with input_schema"

CACHE: Final = tagged("type", {"ephemeral": record({"type": text(), "ttl": choice("5m", "1h")})}, "cache")
TEXT: Final = record(
    {"type": text(), "text": text(), "cache_control": CACHE},
    required=["text"],
    refused={
        "citations": "is not available: it needs documents",
        "parsed_output": "is the SDK's own: send the text",
    },
)
SOURCE: Final = tagged(
    "type",
    {
        "base64": record(
            {"type": text(), "media_type": choice(*measure.PICTURES), "data": measure.base64},
            required=["media_type", "data"],
        )
    },
    "image source",
)
IMAGE: Final = record({"type": text(), "source": SOURCE, "cache_control": CACHE}, required=["source"])
THINKING: Final = record({"type": text(), "thinking": text(), "signature": text()}, required=["thinking", "signature"])
REDACTED: Final = record({"type": text(), "data": text()}, required=["data"])
CALLER: Final = tagged("type", {"direct": record({"type": text()})}, "caller")
TOOL_USE: Final = record(
    {
        "type": text(),
        "id": CALL_ID,
        "name": TOOL_NAME,
        "input": fields.anything,
        "caller": CALLER,
        "cache_control": CACHE,
    },
    required=["id", "name", "input"],
    refused={"toolset_name": "is not available: toolsets are the provider's own"},
)
RESULT: Final = record(
    {
        "type": text(),
        "tool_use_id": CALL_ID,
        "content": either(text(), array(tagged("type", {"text": TEXT, "image": IMAGE}, "content block"))),
        "is_error": boolean,
        "cache_control": CACHE,
    },
    required=["tool_use_id"],
)
ASKED: Final = {"text": TEXT, "image": IMAGE, "tool_result": RESULT}
SAID: Final = {"text": TEXT, "thinking": THINKING, "redacted_thinking": REDACTED, "tool_use": TOOL_USE}
TEXTS: Final = either(text(), array(tagged("type", {"text": TEXT}, "content block"), least=1))


def _message(blocks: Mapping[str, Check]) -> Check:
    content = either(text(), array(tagged("type", blocks, "content block")))
    return record({"role": text(), "content": content}, required=["content"])


MESSAGE: Final = tagged(
    "role",
    {
        "user": _message(ASKED),
        "assistant": _message(SAID),
        "system": record({"role": text(), "content": TEXTS}, required=["content"]),
    },
    "role",
)
CUSTOM: Final = record(
    {
        "type": text(),
        "name": TOOL_NAME,
        "description": text(),
        "input_schema": fields.anything,
        "input_examples": array(fields.anything, most=20),
        "strict": boolean,
        "eager_input_streaming": boolean,
        "cache_control": CACHE,
    },
    required=["name", "input_schema"],
    refused={
        "allowed_callers": "is not available: only the model itself may call a tool",
        "defer_loading": "is not available: the provider would search the tools itself",
    },
)


def tool(value: Any, path: str, report: Report) -> Any:
    """A tool that the agent runs. `type` may be absent; any other than `custom` is the provider's own."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind is not None and kind != "custom":
        report.refuse(fields.under(path, "type"), HOSTED, ["custom"])
        return value
    return CUSTOM(value, path, report)


PARALLEL: Final = {"type": text(), "disable_parallel_tool_use": boolean}
TOOL_CHOICE: Final = tagged(
    "type",
    {
        "auto": record(PARALLEL),
        "any": record(PARALLEL),
        "none": record({"type": text()}),
        "tool": record({**PARALLEL, "name": TOOL_NAME}, required=["name"]),
    },
    "tool choice",
)
DISPLAY: Final = choice("summarized", "omitted")
THINKING_CONFIG: Final = tagged(
    "type",
    {
        "enabled": record(
            {"type": text(), "budget_tokens": integer(1024, MOST_OUTPUT), "display": DISPLAY},
            required=["budget_tokens"],
        ),
        "adaptive": record({"type": text(), "display": DISPLAY}),
        "between_tools": record({"type": text()}),
        "disabled": record({"type": text()}),
    },
    "kind of thinking",
)
FORMAT: Final = tagged(
    "type",
    {"json_schema": record({"type": text(), "schema": fields.anything}, required=["schema"])},
    "output format",
)
EDITS: Final = array(
    tagged("type", dict.fromkeys(("clear_tool_uses_20250919", "clear_thinking_20251015"), fields.anything), "edit")
)

PROMPT: Final[Mapping[str, Check]] = {
    "model": text(least=1, most=256),
    "messages": array(MESSAGE, least=1),
    "system": TEXTS,
    "tools": array(tool, most=128),
    "tool_choice": TOOL_CHOICE,
    "thinking": THINKING_CONFIG,
    "output_config": record({"effort": choice("low", "medium", "high", "xhigh", "max"), "format": FORMAT}),
    "cache_control": CACHE,
    "context_management": record({"edits": EDITS}),
    "speed": choice("standard"),
}
"""What makes the input: all that `count_tokens` takes."""
REFUSED: Final = {
    "container": "is not available: the provider would keep state and run code",
    "diagnostics": "is not available: it refers to what a provider keeps",
    "inference_geo": "is not available: it has a price of its own; choose the region in buspass.yaml",
    "mcp_servers": "is not available: the provider would call them itself",
    "thread": "is not available: the provider would keep the conversation",
    "user_profile_id": "is not available: it belongs to the provider's own accounts",
    "workspace_id": "is not available: it belongs to the provider's own accounts",
}
REQUEST: Final = record(
    {
        **PROMPT,
        "max_tokens": integer(1, MOST_OUTPUT),
        "stop_sequences": array(text(), most=64),
        "temperature": number(0, 1),
        "top_p": number(0, 1),
        "top_k": integer(0, 2**31),
        "metadata": record({"user_id": text(most=512)}),
        "service_tier": choice("auto", "standard_only"),
        "stream": boolean,
    },
    required=["model", "messages", "max_tokens"],
    refused=REFUSED,
)
COUNT: Final = record(PROMPT, required=["model", "messages"], refused=REFUSED)
