"""A whole answer in OpenAI's format as nearly all are, read in one look: one choice, which says a text alone.

Owns a part of what `openai.answer` reads and the agent's surface then allow-lists: what fits here comes out of both
just so. What does not fit says nothing: it goes the long way. Refuses to know why an answer is wrong.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta, MsgspecError, Struct
from msgspec.json import Decoder

from buspass.model import Answer
from buspass.providers.chat_shape import FINISH
from buspass.providers.document import MOST
from buspass.providers.openai_usage import usage

type Count = Annotated[int, Meta(ge=0, lt=MOST)]


class _Message(Struct):
    content: str
    refusal: None = None
    tool_calls: None = None


class _Choice(Struct):
    index: Count
    message: _Message
    finish_reason: Annotated[str, Meta(min_length=1)]
    logprobs: None = None


class _Whole(Struct):
    """Of other members nothing reaches an agent. `usage` is judged where it is read."""

    id: str
    created: int
    choices: Annotated[list[_Choice], Meta(min_length=1, max_length=1)]
    usage: Any = None
    service_tier: str | None = None
    system_fingerprint: str | None = None


_READ: Final = Decoder(_Whole).decode


def answer(body: bytes) -> Answer | None:
    """Give the answer, its document as an agent gets it, but for what `Answer` has itself; None for any other."""
    try:
        found = _READ(body)
    except (MsgspecError, ValueError, RecursionError):
        return None
    choice, used = found.choices[0], usage(found.usage)
    text, reason = choice.message.content, choice.finish_reason
    document: dict[str, Any] = {
        "id": found.id,
        "created": found.created,
        "object": "chat.completion",
        "choices": [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
        ],
    }
    if found.service_tier is not None:
        document["service_tier"] = found.service_tier
    if found.system_fingerprint is not None:
        document["system_fingerprint"] = found.system_fingerprint
    return Answer(
        document=document, usage=used, text=text, offers=(), finish=(FINISH.get(reason, reason),), rendered=True
    )
