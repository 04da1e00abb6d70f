"""The wire format of OpenAI and of all who speak it (vLLM, Ollama, …): request out, answer in, no I/O.

Source: platform.openai.com/docs/api-reference/chat. Knows how a provider counts and fails; knows no agent, no budget,
and of a credential only where it goes. An ask of another surface is translated by `to_openai`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import count as count_up
from typing import Any, Final

from buspass.config.settings import Provider, Target
from buspass.model import Answer, Ask, Failure, Offer
from buspass.ports.outbound import Request, Response
from buspass.providers import chat_shape, failures, to_openai
from buspass.providers.bounds import Bound
from buspass.providers.decoding import CHAT, StreamDecoder, told
from buspass.providers.document import count, credential_headers, dumps, items, loads, member, optional, string
from buspass.providers.openai_stream import EXTRA, Decoder
from buspass.providers.openai_usage import usage
from buspass.providers.parts import Block, Choice, Head

__all__ = ["API", "answer", "decoder", "refused", "request", "usage", "warm"]

API: Final = "openai"
PATH: Final = "/chat/completions"
WARM: Final = 16
"""Answers after which it is worth the milliseconds to have what reads plain ones in one look."""


def request(
    provider: Provider,
    target: Target,
    ask: Ask,
    most: Bound,
    credential: str | None,
    timeout: float,
    *,
    idle: float = 60.0,
) -> Request:
    """One attempt. The bounded output is always sent, in the member that the client used, else in the current one.

    A stream is always asked for its usage, whatever the client wants to see of it. `idle` is in seconds. Raises
    `unsupported` for what this wire format lacks.
    """
    payload = ask.payload if ask.surface == CHAT else to_openai.body(ask.payload)
    limit = "max_tokens" if "max_tokens" in payload else "max_completion_tokens"
    body = {"model": target.model, **payload, limit: most.max_output}
    if ask.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    headers = credential_headers(provider, credential)
    headers["content-type"] = "application/json"
    headers["accept"] = "text/event-stream" if ask.stream else "application/json"
    return Request(
        method="POST",
        url=provider.base_url + PATH,
        headers=headers,
        body=dumps(body),
        timeout=timeout,
        idle=idle,
    )


def answer(response: Response, ask: Ask | None = None) -> Answer:
    """The answer in a whole response, in the shape of the ask's surface (without one, in this format's own).

    Raises `Failure` where there is none; missing usage is no failure, but not zero.
    """
    if not 200 <= response.status < 300:
        raise refused(response)
    own = ask is None or ask.surface == CHAT
    if ask is not None and own and next(_ANSWERED) >= WARM:
        plain = _plainly()(response.body)
        if plain is not None:  # nearly always
            return plain
    try:
        document = loads(response.body)
        said = items(document, "choices", least=1)
        if ask is None or own:
            return _as_it_is(document, said)
        choices = [_choice(choice) for choice in said]
    except (ValueError, RecursionError) as error:
        raise failures.malformed(response) from error
    return told(ask.surface, _head(document), choices, usage(document.get("usage")))


_ANSWERED: Final = count_up()


@cache
def _plainly() -> Callable[[bytes], Answer | None]:
    """No cold start waits for it."""
    from buspass.providers.openai_plain import answer as plainly  # noqa: PLC0415 - see above

    return plainly


def warm() -> None:
    """Have what reads plain answers in one look: a host that lives long does so as it starts."""
    _plainly()


def refused(response: Response) -> Failure:
    """What a status that is not 2xx means."""
    return failures.refused(response)


def decoder(ask: Ask) -> StreamDecoder:
    """For the body of a 2xx answer to a request with `stream`."""
    return Decoder(ask)


def _as_it_is(document: Mapping[str, Any], choices: Sequence[Any]) -> Answer:
    """What `told` makes of `_choice`s for those who speak this format: blocks that nobody writes anew aren't made."""
    texts: list[str] = []
    offers: list[Offer] = []
    finish: list[str] = []
    for choice in choices:
        message = member(choice, "message")
        if count(choice, "index") is None:
            raise ValueError("a choice without index")
        if text := optional(message, "content") + optional(message, "refusal"):
            texts.append(text)
        if calls := items(message, "tool_calls"):
            offers += [
                Offer(id=call.id, name=call.name, arguments_text=call.text or "{}") for call in map(_call, calls)
            ]
        if reason := string(choice, "finish_reason"):
            finish.append(chat_shape.finish(reason))
    return Answer(
        document=document,
        usage=usage(document.get("usage")),
        text="\n\n".join(texts),
        offers=tuple(offers),
        finish=tuple(finish),
    )


def _head(document: Mapping[str, Any]) -> Head:
    extra = {name: document[name] for name in EXTRA if isinstance(document.get(name), str)}
    name = document.get("id")
    return Head(id=name if isinstance(name, str) else "", created=count(document, "created") or 0, extra=extra)


def _choice(said: Any) -> Choice:
    message = member(said, "message")
    if count(said, "index") is None:
        raise ValueError("a choice without index")
    blocks = [
        Block(kind="text", text=optional(message, "content"), closed=True),
        Block(kind="refusal", text=optional(message, "refusal"), closed=True),
        *(_call(call) for call in items(message, "tool_calls")),
    ]
    told_ones = [block for block in blocks if block.kind == "tool" or block.text]
    return Choice(blocks=told_ones, finish=string(said, "finish_reason"))


def _call(call: Any) -> Block:
    function = member(call, "function")
    name, arguments = string(function, "name", least=1), string(function, "arguments")
    return Block(kind="tool", id=string(call, "id", least=1), name=name, text=arguments, closed=True)
