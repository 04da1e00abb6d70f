"""The wire format of OpenAI and of all who speak it (vLLM, Ollama, …): request out, answer in, no I/O.

Source: platform.openai.com/docs/api-reference/chat. Knows how a provider counts and fails; knows no agent, no budget,
and of a credential only where it goes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from buspass.config.settings import Provider, Target
from buspass.model import Answer, Ask, Offer, Usage
from buspass.ports.outbound import Request, Response
from buspass.providers import failures
from buspass.providers.bounds import Bound

API: Final = "openai"
PATH: Final = "/chat/completions"


def request(
    provider: Provider, target: Target, ask: Ask, most: Bound, credential: str | None, timeout: float
) -> Request:
    """One attempt. The bounded output is always sent, in the member that the client used, else in the current one."""
    limit = "max_tokens" if "max_tokens" in ask.payload else "max_completion_tokens"
    body = {"model": target.model, **ask.payload, limit: most.max_output}
    return Request(
        method="POST",
        url=provider.base_url + PATH,
        headers={"content-type": "application/json", "accept": "application/json", **_auth(provider, credential)},
        body=json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(),
        timeout=timeout,
    )


def answer(response: Response) -> Answer:
    """The answer in a response. Raises `Failure` where there is none; missing usage is no failure, but not zero."""
    if not 200 <= response.status < 300:
        raise failures.refused(response)
    try:
        document = _loads(response.body)
        messages = [_message(choice) for choice in _list(document, "choices", least=1)]
        offers = tuple(_offer(call) for message in messages for call in _list(message, "tool_calls"))
    except (ValueError, RecursionError) as error:
        raise failures.malformed(response) from error
    said = [message[part] for message in messages for part in ("content", "refusal") if message.get(part)]
    return Answer(
        document=document,
        usage=usage(document.get("usage")),
        text="\n\n".join(said),
        offers=offers,
        finish=tuple(choice["finish_reason"] for choice in document["choices"]),
    )


def usage(said: Any) -> Usage:
    """Usage as the provider counts it. Tokens in `total_tokens` beyond both parts are output: some hide thought there.

    Anything but two counts is unknown; details that make no sense are taken as 0, the dearer reading.
    """
    if not isinstance(said, dict):
        return Usage(known=False)
    given, made = _count(said, "prompt_tokens"), _count(said, "completion_tokens")
    if given is None or made is None:
        return Usage(known=False)
    made = max(made, (_count(said, "total_tokens") or 0) - given)
    cached = _count(said.get("prompt_tokens_details"), "cached_tokens") or 0
    reasoning = _count(said.get("completion_tokens_details"), "reasoning_tokens") or 0
    return Usage(input=given, output=made, cached=cached if cached <= given else 0, reasoning=min(reasoning, made))


def _auth(provider: Provider, credential: str | None) -> dict[str, str]:
    match provider.auth.kind:
        case "bearer":
            return {"authorization": f"Bearer {credential}"}
        case "header":
            return {provider.auth.header.lower(): credential or ""}
        case _:
            return {}


def _loads(body: bytes) -> dict[str, Any]:
    text = body.decode()
    document = json.loads(text, parse_constant=_no_constant)
    if "\\ud" in text or "\\uD" in text:
        document = _mended(document)
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of error for all that is not the wire format
    return document


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _mended(value: Any) -> Any:
    """Half surrogate pairs (a cut emoji) become U+FFFD: nothing behind us could write them as UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(each) for each in value]
    if isinstance(value, dict):
        return {_mended(name): _mended(each) for name, each in value.items()}
    return value


def _message(choice: Any) -> Mapping[str, Any]:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict) or not isinstance(choice.get("finish_reason"), str):
        raise ValueError("a choice without message or finish_reason")  # noqa: TRY004 - see _loads
    if _count(choice, "index") is None:
        raise ValueError("a choice without index")
    if any(not isinstance(message.get(part), (str, type(None))) for part in ("content", "refusal")):
        raise ValueError("content that is not text")
    return message


def _offer(call: Any) -> Offer:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise ValueError("a tool call that is not a function")  # noqa: TRY004 - see _loads
    parts = (call.get("id"), function.get("name"), function.get("arguments"))
    if not all(isinstance(part, str) for part in parts) or not call["id"] or not function["name"]:
        raise ValueError("a tool call without id, name or arguments")
    return Offer(id=call["id"], name=function["name"], arguments_text=function["arguments"])


def _list(holder: Mapping[str, Any], name: str, *, least: int = 0) -> Sequence[Any]:
    found = holder.get(name)
    found = [] if found is None else found
    if not isinstance(found, list) or len(found) < least:
        raise ValueError(f"{name} is not a list of at least {least}")
    return found


def _count(holder: Any, name: str) -> int | None:
    """A count, or None where there is none that an account could hold."""
    found = holder.get(name) if isinstance(holder, dict) else None
    good = isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**40
    return found if good else None
