"""Anthropic's messages: an agent's request into an `Ask`, the answer, whole or as a stream, and problems.

Source: platform.claude.com/docs/en/api/messages, /streaming and /errors. Its tables: `anthropic_fields`.
Knows no provider, no grant and no price: `model` is whatever alias the agent wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Any, Final, Literal

from buspass.errors import Problem
from buspass.model import Answer, Ask, Image, Usage
from buspass.surfaces import fields, framing, measure
from buspass.surfaces.anthropic_fields import COUNT, REQUEST
from buspass.surfaces.anthropic_headers import SAMPLING, VERSIONS, passing
from buspass.surfaces.fields import Check, Report

NAME: Final = "anthropic.messages"
WARM: Final = 16
"""Requests after which it is worth the milliseconds to have what judges plain ones in one look."""
OURS: Final = frozenset({"model", "stream"})
BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("type", "text"),
    "thinking": ("type", "thinking", "signature"),
    "redacted_thinking": ("type", "data"),
    "tool_use": ("type", "id", "name", "input"),
}
"""Members of an answer's blocks that reach the agent."""


def parse(body: Any, *, headers: Mapping[str, str] | None = None, streaming: bool = False, read: bool = False) -> Ask:
    """A request from its parsed JSON and its headers (names in lower case).

    Raises `unsupported` or `invalid_request` with a row for each thing wrong. `streaming`: the host can carry a stream;
    where it can't, `stream: true` is refused. `read`: `parse_json` gave the body, and would have refused what is not
    sound.
    """
    passed = passing(headers or {})
    if read and streaming and next(_PARSED) >= WARM and _fits()(body):
        report = Report()
        _suit(body, passed, report)
        _agree(body, report)
        report.close()
        return _ask(body, passed)
    return _ask(_judged(REQUEST, body, passed, streaming=streaming, read=read), passed)


_PARSED: Final = count()


@cache
def _fits() -> Callable[[Any], bool]:
    """No cold start waits for it."""
    from buspass.surfaces.messages_plain import fits  # noqa: PLC0415 - see above

    return fits


def parse_count(body: Any, *, headers: Mapping[str, str] | None = None) -> Ask:
    """A request of `/v1/messages/count_tokens`: what makes the input and nothing else. Raises as `parse` does."""
    passed = passing(headers or {})
    return _ask(_judged(COUNT, body, passed, streaming=False), passed)


def render_count(tokens: int) -> dict[str, Any]:
    return {"input_tokens": tokens}


def texts(ask: Ask) -> Iterator[tuple[str, str]]:
    """Every string that reaches the model, with its path, as inspection wants them; of pictures nothing.

    Paths that end in `.thinking`, `.signature` and `.data` stand in blocks that the provider signed or sealed: a
    changed one is refused by it.
    """
    for part in ("system", "messages", "tools", "output_config"):
        yield from measure.strings(ask.payload.get(part), part, _pictures(ask.images))


def render(answer: Answer, alias: str) -> dict[str, Any]:
    """What the agent gets: the provider's message under the agent's own name for the model, allow-listed.

    Thinking and its signature stay as they came. The format knows no missing usage: it is shown as zeros.
    """
    given = answer.document
    return {
        "id": str(given.get("id", "")),
        "type": "message",
        "role": "assistant",
        "model": alias,
        "content": [
            {name: block[name] for name in BLOCKS[block["type"]] if name in block}
            for block in given["content"]
            if block["type"] in BLOCKS
        ],
        "stop_reason": given.get("stop_reason"),
        "stop_sequence": given.get("stop_sequence"),
        "usage": _usage(answer.usage),
    }


def models(aliases: Iterable[str], *, more: bool = False) -> dict[str, Any]:
    """A page of models in Anthropic's shape. `more`: others follow. `created_at` is 0, for an alias has no birthday."""
    epoch = "1970-01-01T00:00:00Z"
    rows = [
        {"type": "model", "id": alias, "display_name": alias, "created_at": epoch, "lifecycle": "active"}
        for alias in aliases
    ]
    ends = {"first_id": rows[0]["id"] if rows else None, "last_id": rows[-1]["id"] if rows else None}
    return {"data": rows, "has_more": more, **ends}


def stream_event(event: Mapping[str, Any]) -> bytes:
    """One event as it goes over the wire: its type is its name."""
    return framing.frame(event, event["type"])


def stream_end(ask: Ask, answer: Answer, buspass: Mapping[str, Any]) -> bytes:  # noqa: ARG001 - as every surface
    """What a decoder held back: why the model stopped, the usage, and the end, which carries `buspass`."""
    given = answer.document
    delta = {"stop_reason": given.get("stop_reason"), "stop_sequence": given.get("stop_sequence")}
    events = (
        {"type": "message_delta", "delta": delta, "usage": _usage(answer.usage)},
        {"type": "message_stop", "buspass": dict(buspass)},
    )
    return b"".join(map(stream_event, events))


def stream_problem(found: Problem, buspass: Mapping[str, Any] | None = None) -> bytes:
    """A problem in a stream that has begun: an `error` event, on which the SDK raises; nothing follows."""
    document = problem(found)[2]
    return stream_event(document if buspass is None else {**document, "buspass": dict(buspass)})


ERROR_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's `error.type` by status; else `api_error` from 500 on, `invalid_request_error` below."""


def problem(found: Problem) -> tuple[int, dict[str, str], dict[str, Any]]:
    """A problem in Anthropic's envelope: status, headers, body. Its SDK chooses the exception by status."""
    kind = ERROR_TYPES.get(found.status, "api_error" if found.status >= 500 else "invalid_request_error")
    error = {"type": kind, "message": found.detail, "code": found.code}
    headers = {"content-type": "application/json", **framing.retry_headers(found)}
    return found.status, headers, {"type": "error", "error": framing.ours(found) | error}


def _judged(
    check: Check, body: Any, passed: Mapping[str, str], *, streaming: bool, read: bool = False
) -> dict[str, Any]:
    report = Report()
    if not read:
        fields.sound(body, report)
        report.close()
    clean: dict[str, Any] = check(body, "", report)
    if not streaming and isinstance(body, dict) and body.get("stream") is True:
        report.refuse("stream", "cannot be true: streaming is not available yet", [False])
    if isinstance(clean, dict):
        _suit(clean, passed, report)
    if not report.unsupported and not report.invalid:
        _agree(clean, report)
    report.close()
    return clean


def _suit(clean: Mapping[str, Any], passed: Mapping[str, str], report: Report) -> None:
    """What the version of the API does not have any more."""
    if passed["anthropic-version"] != VERSIONS[0]:
        for name in sorted(SAMPLING & clean.keys()):
            report.refuse(name, f"is gone from API version {passed['anthropic-version']}")


def _agree(clean: Mapping[str, Any], report: Report) -> None:
    """What no field can say alone."""
    names = _names(clean)
    for index, name in enumerate(names):
        if name in names[:index]:
            report.mend(f"tools[{index}].name", "is the name of an earlier tool")
    chosen = clean.get("tool_choice", {})
    if chosen.get("type") == "tool" and chosen["name"] not in names:
        report.mend("tool_choice.name", "must name a tool of this request", names)
    budget, most = clean.get("thinking", {}).get("budget_tokens"), clean.get("max_tokens")
    if budget is not None and most is not None and budget >= most:
        report.mend("thinking.budget_tokens", "must be less than max_tokens")


def _ask(clean: Mapping[str, Any], passed: Mapping[str, str]) -> Ask:
    payload = {name: value for name, value in clean.items() if name not in OURS}
    blocks = _blocks(clean)
    images = tuple(_images(clean["messages"])) if any(block["type"] == "image" for block in blocks) else ()
    return Ask(
        surface=NAME,
        model=clean["model"],
        payload=payload,
        tools=_names(clean),
        n=1,
        max_output=clean.get("max_tokens"),
        input_bytes=_size(payload, blocks, images),
        messages=len(clean["messages"]) + ("system" in clean),
        metadata={},
        stream=clean.get("stream", False),
        include_usage=True,
        images=images,
        caches=_caches(clean, blocks),
        headers=passed,
    )


def _names(clean: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(tool["name"] for tool in clean.get("tools", ()))


def _blocks(clean: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every content block, those within tool results too."""
    holders = (clean.get("system"), *[message["content"] for message in clean["messages"]])
    blocks = [block for content in holders if isinstance(content, list) for block in content]
    results = [content for block in blocks if isinstance(content := block.get("content"), list)]
    return blocks + [block for content in results for block in content]


def _images(messages: Iterable[Mapping[str, Any]]) -> Iterator[Image]:
    pending = [(f"messages[{index}].content", message["content"]) for index, message in enumerate(messages)]
    while pending:
        path, content = pending.pop()
        for place, block in enumerate(content if isinstance(content, list) else ()):
            if block["type"] == "image":
                yield Image(path=f"{path}[{place}]", data=block["source"]["data"])
            pending.append((f"{path}[{place}].content", block.get("content")))


def _pictures(images: Iterable[Image]) -> frozenset[str]:
    return frozenset(f"{image.path}.source.data" for image in images)


def _size(payload: Mapping[str, Any], blocks: Iterable[Mapping[str, Any]], images: Iterable[Image]) -> int:
    """Bytes that bound the text tokens: of messages each string, of schemas the JSON (its punctuation counts too).

    So does that of an earlier call's arguments, instead of the strings in them.
    """
    prompt = {part: payload[part] for part in ("system", "messages") if part in payload}
    pictures = _pictures(images)
    said = measure.said(prompt, "", pictures)
    inputs = [block["input"] for block in blocks if block["type"] == "tool_use"]
    written = [payload[part] for part in ("tools", "tool_choice", "output_config") if part in payload] + inputs
    inside = [*prompt, *measure.said(inputs, "", ()), *["input"] * len(inputs)]
    return measure.octets([*said, *map(measure.compact, written)]) - measure.octets(inside)


def _caches(clean: Mapping[str, Any], blocks: Iterable[Mapping[str, Any]]) -> Literal["no", "5m", "1h"]:
    """The longest cache that a mark anywhere in the request asks for."""
    marks = [
        holder["cache_control"] for holder in (clean, *clean.get("tools", ()), *blocks) if "cache_control" in holder
    ]
    if any(mark.get("ttl") == "1h" for mark in marks):
        return "1h"
    return "5m" if marks else "no"


def _usage(used: Usage) -> dict[str, Any]:
    """Anthropic counts what it read from a cache or wrote to one apart from `input_tokens`."""
    return {
        "input_tokens": max(0, used.input - used.cached - used.cache_write),
        "cache_creation_input_tokens": used.cache_write,
        "cache_read_input_tokens": used.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": used.cache_write - used.cache_write_1h,
            "ephemeral_1h_input_tokens": used.cache_write_1h,
        },
        "output_tokens": used.output,
        "output_tokens_details": {"thinking_tokens": used.reasoning},
    }
