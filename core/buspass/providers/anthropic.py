"""The wire format of Anthropic's messages: request out, answer in, no I/O.

Source: platform.claude.com/docs/en/api/messages and /errors. Knows how this provider counts and fails; knows no agent,
no budget, and of a credential only where it goes. An ask of another surface is translated by `to_anthropic`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from buspass.config.settings import Provider, Target
from buspass.model import Answer, Ask, Failure
from buspass.ports.outbound import Request, Response
from buspass.providers import failures, to_anthropic
from buspass.providers.anthropic_stream import KINDS, Decoder
from buspass.providers.anthropic_usage import usage
from buspass.providers.bounds import Bound
from buspass.providers.decoding import MESSAGES, StreamDecoder, told
from buspass.providers.document import credential_headers, dumps, items, loads, member, optional, string
from buspass.providers.parts import Block, Choice, Head, Kind

__all__ = ["API", "answer", "decoder", "refused", "request", "usage"]

API: Final = "anthropic"
PATH: Final = "/v1/messages"
VERSION: Final = "2026-10-21"
WITH_SAMPLING: Final = "2023-06-01"
"""The last version that takes `temperature` and `top_p`, where a translated request has them."""
SHED: Final = failures.SHED | {529}
"""529 is Anthropic's own "overloaded": the request was not taken in."""
NO_CREDIT: Final = "Your credit balance is too low"
"""How it tells, with status 400, that our account there is empty: nothing that the agent could mend."""


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
    """One attempt; `idle` is in seconds. The bounded output is always sent. `base_url` may end in `/v1` or not.

    Raises `unsupported` or `invalid_request` for what this wire format can't say.
    """
    own = ask.surface == MESSAGES
    payload = ask.payload if own else to_anthropic.body(ask.payload)
    body = {"model": target.model, **payload, "max_tokens": most.max_output}
    if ask.stream:
        body["stream"] = True
    version = {"anthropic-version": WITH_SAMPLING if {"temperature", "top_p"} & body.keys() else VERSION}
    return Request(
        method="POST",
        url=provider.base_url.removesuffix("/v1") + PATH,
        headers={
            "content-type": "application/json",
            "accept": "text/event-stream" if ask.stream else "application/json",
            **version,
            **(ask.headers if own else {}),
            **credential_headers(provider, credential),
        },
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
    try:
        document = loads(response.body.decode())
        choice = _choice(document)
    except (ValueError, RecursionError) as error:
        raise failures.malformed(response) from error
    own = ask is None or ask.surface == MESSAGES
    surface = MESSAGES if ask is None else ask.surface
    head = Head(id=optional(document, "id"))
    return told(surface, head, [choice], usage(document.get("usage")), document if own else None)


def refused(response: Response) -> Failure:
    """What a status that is not 2xx means."""
    found = failures.refused(response, shed=SHED)
    if found.kind == "rejected" and found.message.startswith(NO_CREDIT):
        return Failure("forbidden", billed="no", retryable=True, status=response.status)
    return found


def decoder(ask: Ask) -> StreamDecoder:
    """For the body of a 2xx answer to a request with `stream`."""
    return Decoder(ask)


def _choice(document: Mapping[str, Any]) -> Choice:
    if document.get("type") != "message":
        raise ValueError("not a message")
    blocks = []
    for given in items(document, "content"):
        if not isinstance(given, dict):
            raise ValueError("a content block that is no object")  # noqa: TRY004 - see `document`
        kind = KINDS.get(string(given, "type"))
        if kind is not None:
            blocks.append(_block(kind, given))
    finish, stop = string(document, "stop_reason", least=1), optional(document, "stop_sequence")
    return Choice(blocks=blocks, finish=finish, stop=stop or None)


def _block(kind: Kind, given: Mapping[str, Any]) -> Block:
    match kind:
        case "tool":
            name, written = string(given, "name", least=1), json.dumps(member(given, "input"), ensure_ascii=False)
            return Block(kind=kind, id=string(given, "id", least=1), name=name, text=written, closed=True)
        case "thinking":
            signature = optional(given, "signature")
            return Block(kind=kind, text=string(given, "thinking"), signature=signature, closed=True)
        case "sealed":
            return Block(kind=kind, text=string(given, "data"), closed=True)
        case _:
            return Block(kind=kind, text=string(given, "text"), closed=True)
