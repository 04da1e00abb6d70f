"""Usage as OpenAI and those who speak its format count it.

Source: platform.openai.com/docs/api-reference/chat/object. Knows no price.
"""

from __future__ import annotations

from typing import Any

from buspass.model import Usage
from buspass.providers.document import count


def usage(said: Any) -> Usage:
    """Usage as the provider counts it. Tokens in `total_tokens` beyond both parts are output: some hide thought there.

    Anything but two counts is unknown; details that make no sense are taken as 0, the dearer reading. What OpenAI
    writes to its cache it bills as plain input.
    """
    if not isinstance(said, dict):
        return Usage(known=False)
    given, made = count(said, "prompt_tokens"), count(said, "completion_tokens")
    if given is None or made is None:
        return Usage(known=False)
    made = max(made, (count(said, "total_tokens") or 0) - given)
    cached = count(said.get("prompt_tokens_details"), "cached_tokens") or 0
    reasoning = count(said.get("completion_tokens_details"), "reasoning_tokens") or 0
    return Usage(input=given, output=made, cached=cached if cached <= given else 0, reasoning=min(reasoning, made))
