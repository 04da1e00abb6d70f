"""OpenAI's chat completions as agents write them: the allow-list of a request, the answer, whole or as a stream.

Source: platform.openai.com/docs/api-reference/chat. What is not in these tables is refused by name.
Knows no provider, no grant and no price: `model` is whatever alias the agent wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import count
from typing import Any, Final

from buspass.errors import Problem
from buspass.model import Answer, Ask, Image
from buspass.surfaces import fields, framing, measure
from buspass.surfaces.chat_answer import render, usage
from buspass.surfaces.fields import Report, array, boolean, choice, either, integer, number, record, tagged, text

__all__ = ["NAME", "models", "parse", "problem", "render", "stream_end", "stream_event", "stream_problem", "texts"]

NAME: Final = "openai.chat"
MOST_OUTPUT: Final = 2**24
"""Tokens: above every model there is, and small enough that no product of it leaves an account's range."""
MOST_CHOICES: Final = 8
WARM: Final = 16
"""Requests after which it is worth the milliseconds to have what judges plain ones in one look."""
OURS: Final = frozenset({"model", "metadata", "stream", "stream_options"})
"""Members that are for the gateway; a provider gets its own `model`, and no labels of somebody's spend."""
LABELS: Final = OURS - {"model"}
AGREEING: Final = frozenset({"max_completion_tokens", "top_logprobs", "stream_options", "tools", "tool_choice"})
"""Members of which at least one stands where members do not agree."""
SCHEMAS: Final = frozenset({"tools", "tool_choice", "response_format"})
"""Members that count as JSON."""

FUNCTION_NAME: Final = text(pattern=r"[a-zA-Z0-9_-]{1,64}")
SPEAKER: Final = text(pattern=r"[^\s<|\\/>]{1,64}")
CALL_ID: Final = text(least=1, most=256)

TEXT_PART: Final = record({"type": text(), "text": text()}, required=["text"])
REFUSAL_PART: Final = record({"type": text(), "refusal": text()}, required=["refusal"])
REMOTE: Final = "must be a data: URL: a provider that fetches for you goes where nobody looks"
IMAGE_URL: Final = record(
    {"url": measure.data_url(REMOTE), "detail": choice("auto", "low", "high", "original")}, required=["url"]
)
IMAGE_PART: Final = record({"type": text(), "image_url": IMAGE_URL}, required=["image_url"])
CONTENT: Final = either(text(), array(tagged("type", {"text": TEXT_PART}, "content part"), least=1))
SHOWN: Final = either(
    text(), array(tagged("type", {"text": TEXT_PART, "image_url": IMAGE_PART}, "content part"), least=1)
)
SAID: Final = either(
    text(), array(tagged("type", {"text": TEXT_PART, "refusal": REFUSAL_PART}, "content part"), least=1)
)
FUNCTION_CALL: Final = record(
    {"name": FUNCTION_NAME, "arguments": text()}, required=["name", "arguments"], dropped=["parsed_arguments"]
)
TOOL_CALL: Final = tagged(
    "type",
    {
        "function": record(
            {"id": CALL_ID, "type": text(), "function": FUNCTION_CALL}, required=["id", "function"], dropped=["index"]
        )
    },
    "tool call",
)
"""With what OpenAI's streaming and parsing helpers leave in a message that an agent sends back."""
INSTRUCTION: Final = record({"role": text(), "content": CONTENT, "name": SPEAKER}, required=["content"])
USER: Final = record({"role": text(), "content": SHOWN, "name": SPEAKER}, required=["content"])
ASSISTANT: Final = record(
    {
        "role": text(),
        "content": SAID,
        "name": SPEAKER,
        "refusal": text(),
        "tool_calls": array(TOOL_CALL, least=1, most=128),
    },
    dropped=["parsed"],
    refused={
        "audio": "is not available: text only",
        "function_call": "is OpenAI's old form: use tool_calls",
        "annotations": "comes from tools that a provider runs itself, which are not available",
    },
)
RESULT: Final = record(
    {"role": text(), "content": CONTENT, "tool_call_id": CALL_ID}, required=["content", "tool_call_id"]
)
MESSAGE: Final = tagged(
    "role",
    {"system": INSTRUCTION, "developer": INSTRUCTION, "user": USER, "assistant": ASSISTANT, "tool": RESULT},
    "role",
)
TOOL: Final = tagged(
    "type",
    {
        "function": record(
            {
                "type": text(),
                "function": record(
                    {"name": FUNCTION_NAME, "description": text(), "parameters": fields.anything, "strict": boolean},
                    required=["name"],
                ),
            },
            required=["function"],
        )
    },
    "kind of tool",
)
TOOL_CHOICE: Final = either(
    choice("none", "auto", "required"),
    tagged(
        "type",
        {
            "function": record(
                {"type": text(), "function": record({"name": FUNCTION_NAME}, required=["name"])},
                required=["function"],
            )
        },
        "tool choice",
    ),
)
JSON_SCHEMA: Final = record(
    {"name": FUNCTION_NAME, "description": text(), "schema": fields.anything, "strict": boolean}, required=["name"]
)
RESPONSE_FORMAT: Final = tagged(
    "type",
    {
        "text": record({"type": text()}),
        "json_object": record({"type": text()}),
        "json_schema": record({"type": text(), "json_schema": JSON_SCHEMA}, required=["json_schema"]),
    },
    "response format",
)

REQUEST: Final = record(
    {
        "model": text(least=1, most=256),
        "messages": array(MESSAGE, least=1),
        "tools": array(TOOL, least=1, most=128),
        "tool_choice": TOOL_CHOICE,
        "parallel_tool_calls": boolean,
        "temperature": number(0, 2),
        "top_p": number(0, 1),
        "seed": integer(-(2**63), 2**63 - 1),
        "stop": either(text(), array(text(), least=1, most=4)),
        "n": integer(1, MOST_CHOICES),
        "max_tokens": integer(1, MOST_OUTPUT),
        "max_completion_tokens": integer(1, MOST_OUTPUT),
        "presence_penalty": number(-2, 2),
        "frequency_penalty": number(-2, 2),
        "logit_bias": fields.mapping(number(-100, 100), most=300, name=16),
        "logprobs": boolean,
        "top_logprobs": integer(0, 20),
        "response_format": RESPONSE_FORMAT,
        "reasoning_effort": choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        "verbosity": choice("low", "medium", "high"),
        "modalities": array(choice("text"), least=1, most=1),
        "user": text(most=512),
        "metadata": fields.mapping(text(most=512), most=16, name=64),
        "store": fields.never("must stay false: nothing is stored at a provider"),
        "service_tier": choice("auto", "default"),
        "stream": boolean,
        "stream_options": record({"include_usage": boolean, "include_obfuscation": fields.never("is not available")}),
    },
    required=["model", "messages"],
    refused={
        "audio": "is not available: text only",
        "function_call": "is OpenAI's old form: use tool_choice",
        "functions": "is OpenAI's old form: use tools",
        "prediction": "is not available: rejected predictions are billed without a bound",
        "web_search_options": "is not available: the provider would run the search itself",
    },
)


def parse(body: Any, *, streaming: bool = False, read: bool = False) -> Ask:
    """A request from its parsed JSON. Raises `unsupported` or `invalid_request` with a row for each thing wrong.

    `streaming`: the host can carry a stream; where it can't, `stream: true` is refused. `read`: `parse_json` gave the
    body, and would have refused what is not sound.
    """
    if read and streaming and next(_PARSED) >= WARM and _fits()(body):
        return _plain(body)
    report = Report()
    if not read:
        fields.sound(body, report)
        report.close()
    clean = REQUEST(body, "", report)
    if not streaming and isinstance(body, dict):
        _refuse_stream(body, report)
    if not report.unsupported and not report.invalid:
        _agree(clean, report)
        _speak(clean["messages"], report)
    report.close()
    payload = {name: value for name, value in clean.items() if name not in OURS}
    return _ask(clean, payload, tuple(_images(clean["messages"])))


def _plain(body: dict[str, Any]) -> Ask:
    """The same of one that fits `chat_plain`: no picture in it, nothing dropped, each message sound by itself."""
    if not AGREEING.isdisjoint(body):
        report = Report()
        _agree(body, report)
        report.close()
    payload = body.copy()
    del payload["model"]
    if not LABELS.isdisjoint(payload):
        payload = {name: value for name, value in payload.items() if name not in LABELS}
    return _ask(body, payload, ())


def _ask(clean: Mapping[str, Any], payload: Mapping[str, Any], images: tuple[Image, ...]) -> Ask:
    given, flat = clean.get, _flat(clean)
    return Ask(
        surface=NAME,
        model=clean["model"],
        payload=payload,
        tools=_functions(clean) if "tools" in clean else (),
        n=given("n", 1),
        max_output=given("max_completion_tokens", given("max_tokens")),
        input_bytes=_size(payload, images) if flat is None else flat,
        messages=len(clean["messages"]),
        metadata=given("metadata", fields.NOTHING),
        stream=given("stream", False),
        include_usage=given("stream_options", fields.NOTHING).get("include_usage", False),
        images=images,
        flat=flat is not None,
    )


def _flat(clean: Mapping[str, Any]) -> int | None:
    """Give `_size` where messages hold nothing but strings and nothing else counts: nearly always."""
    if not SCHEMAS.isdisjoint(clean):
        return None
    said: list[Any] = []
    for message in clean["messages"]:
        said += message
        said += message.values()
    try:
        return measure.octets(said)
    except TypeError:  # one of them is no string
        return None


_PARSED: Final = count()


@cache
def _fits() -> Callable[[Any], bool]:
    """No cold start waits for it."""
    from buspass.surfaces.chat_plain import fits  # noqa: PLC0415 - see above

    return fits


def texts(ask: Ask) -> Iterator[tuple[str, str]]:
    """Every string that reaches the model, with its path, as inspection wants them; of pictures nothing."""
    pictures = {f"{image.path}.image_url.url" for image in ask.images}
    for part in ("messages", "tools", "response_format"):
        yield from measure.strings(ask.payload.get(part), part, pictures)


def stream_event(event: Mapping[str, Any]) -> bytes:
    """One chunk as it goes over the wire."""
    return framing.frame(event)


def stream_end(ask: Ask, answer: Answer, buspass: Mapping[str, Any]) -> bytes:
    """What a decoder held back: each choice's finish, usage where it was asked for, `buspass` in the last; `[DONE]`."""
    finishes = enumerate(answer.finish)
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}]}
        for index, reason in finishes
    ]
    if ask.include_usage and answer.usage.known:
        chunks.append({"choices": [], "usage": usage(answer.usage)})
    chunks = chunks or [{"choices": []}]
    chunks[-1]["buspass"] = dict(buspass)
    given = answer.document
    same = {"id": given.get("id", ""), "object": "chat.completion.chunk", "created": given.get("created", 0)}
    return b"".join(framing.frame({**same, "model": ask.model, **chunk}) for chunk in chunks) + b"data: [DONE]\n\n"


def stream_problem(found: Problem, buspass: Mapping[str, Any] | None = None) -> bytes:
    """A problem in a stream that has begun: OpenAI's SDK raises on a chunk with `error`. No `[DONE]` follows."""
    document = problem(found)[2]
    return framing.frame(document if buspass is None else {**document, "buspass": dict(buspass)})


def models(aliases: Iterable[str]) -> dict[str, Any]:
    """The list of models: the aliases of a grant, in order. `created` is 0, for an alias has no birthday."""
    rows = [{"id": alias, "object": "model", "created": 0, "owned_by": "buspass"} for alias in aliases]
    return {"object": "list", "data": rows}


def _refuse_stream(body: Mapping[str, Any], report: Report) -> None:
    if body.get("stream") is True:
        report.refuse("stream", "cannot be true: streaming is not available yet", [False])
    if body.get("stream_options") is not None:
        report.refuse("stream_options", "is not available: streaming is not available yet", [None])


def _agree(clean: Mapping[str, Any], report: Report) -> None:
    """What no field can say alone."""
    if "max_tokens" in clean and "max_completion_tokens" in clean:
        report.mend("max_tokens", "and max_completion_tokens exclude each other")
    if "top_logprobs" in clean and not clean.get("logprobs"):
        report.mend("top_logprobs", "needs logprobs: true")
    if "stream_options" in clean and not clean.get("stream"):
        report.mend("stream_options", "needs stream: true")
    names = _functions(clean)
    for index, name in enumerate(names):
        if name in names[:index]:
            report.mend(f"tools[{index}].function.name", "is the name of an earlier tool")
    chosen = clean.get("tool_choice")
    if isinstance(chosen, dict) and chosen["function"]["name"] not in names:
        report.mend("tool_choice.function.name", "must name a tool of this request", names)


def _speak(messages: Iterable[dict[str, Any]], report: Report) -> None:
    """What no field of a message can say alone."""
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            if not message.keys() & {"content", "refusal", "tool_calls"}:
                report.mend(f"messages[{index}]", "must have content, refusal or tool_calls")
            message.setdefault("content", None)  # some providers demand the member beside tool calls


def _functions(clean: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(tool["function"]["name"] for tool in clean.get("tools", ()))


def _images(messages: Iterable[Mapping[str, Any]]) -> Iterator[Image]:
    for index, message in enumerate(messages):
        content = message.get("content")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part["type"] == "image_url":
                shown = part["image_url"]
                data = shown["url"].partition(",")[2]
                yield Image(path=f"messages[{index}].content[{place}]", data=data, detail=shown.get("detail", "auto"))


def _size(payload: Mapping[str, Any], images: Iterable[Image]) -> int:
    """Bytes that bound the text tokens: of messages each string, of schemas the JSON (its punctuation counts too)."""
    pictures = {f"{image.path}.image_url.url" for image in images}
    said = measure.said(payload["messages"], "messages", pictures)
    if not SCHEMAS.isdisjoint(payload):
        said += [measure.compact(payload[part]) for part in SCHEMAS if part in payload]
    return measure.octets(said)


ERROR_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
"""OpenAI's `error.type` by status; else `server_error` from 500 on, `invalid_request_error` below."""


def problem(found: Problem) -> tuple[int, dict[str, str], dict[str, Any]]:
    """A problem in OpenAI's envelope: status, headers, body.

    Its SDKs choose the exception by status, and retry 409, 429 and 5xx by themselves unless told not to.
    """
    rows = found.errors
    error = {
        "message": found.detail,
        "type": ERROR_TYPES.get(found.status, "server_error" if found.status >= 500 else "invalid_request_error"),
        "param": rows[0]["path"] or None if rows else None,
        "code": found.code,
    }
    headers = {"content-type": "application/json", **framing.retry_headers(found)}
    return found.status, headers, {"error": framing.ours(found) | error}
