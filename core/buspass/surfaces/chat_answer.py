"""A whole answer as an agent gets it in OpenAI's format: the provider's document, allow-listed.

Source: platform.openai.com/docs/api-reference/chat/object. Knows no request and no provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from buspass.model import Answer, Usage

KEPT: Final = ("id", "created", "service_tier", "system_fingerprint")
"""Members of a provider's answer, apart from what the model said, that reach the agent."""
SCALARS: Final = frozenset({str, int, bool})


def render(answer: Answer, alias: str) -> dict[str, Any]:
    """What the agent gets: the provider's document under the agent's own name for the model, allow-listed."""
    given = answer.document
    document: dict[str, Any]
    if answer.rendered:
        document = {**given, "model": alias}
    else:
        document = {name: kept for name in KEPT if type(kept := given.get(name)) in SCALARS}
        document["object"], document["model"] = "chat.completion", alias
        document["choices"] = [_choice(each) for each in given["choices"]]
    if answer.usage.known:
        document["usage"] = usage(answer.usage)
    return document


def usage(used: Usage) -> dict[str, Any]:
    """Usage as OpenAI's SDKs read it."""
    read = {"cached_tokens": used.cached}
    if used.cache_write:
        read["cache_write_tokens"] = used.cache_write
    return {
        "prompt_tokens": used.input,
        "completion_tokens": used.output,
        "total_tokens": used.input + used.output,
        "prompt_tokens_details": read,
        "completion_tokens_details": {"reasoning_tokens": used.reasoning},
    }


def _only(members: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: members[name] for name in names if members.get(name) is not None}


def _choice(given: Mapping[str, Any]) -> dict[str, Any]:
    message, logprobs = given["message"], given.get("logprobs")
    said = {"role": "assistant", "content": message.get("content"), "refusal": message.get("refusal")}
    if message.get("tool_calls"):
        said["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": _only(call["function"], ("name", "arguments"))}
            for call in message["tool_calls"]
        ]
    return {
        "index": given["index"],
        "message": said,
        "logprobs": _only(logprobs, ("content", "refusal")) if isinstance(logprobs, dict) else None,
        "finish_reason": given["finish_reason"],
    }
