"""Usage as OpenAI and those who speak its format count it.

Source: platform.openai.com/docs/api-reference/chat/object. Knows no price.
"""

from __future__ import annotations

from typing import Any

from buspass.model import Usage
from buspass.providers.document import MOST, count


def usage(said: Any) -> Usage:
    """Usage as the provider counts it. Tokens in `total_tokens` beyond both parts are output: some hide thought there.

    Anything but two counts is unknown; details that make no sense are taken as 0. Newer models bill what they write to
    their cache apart (`cache_write_tokens`); a model whose price names no such row has it at the price of plain input.
    """
    if not isinstance(said, dict):
        return Usage(known=False)
    given, made, total = said.get("prompt_tokens"), said.get("completion_tokens"), said.get("total_tokens")
    if not (type(given) is int and 0 <= given < MOST and type(made) is int and 0 <= made < MOST):
        return Usage(known=False)
    if type(total) is int and given + made < total < MOST:
        made = total - given
    if "prompt_tokens_details" not in said and "completion_tokens_details" not in said:
        return Usage(input=given, output=made)
    cached = written = reasoning = 0
    if details := said.get("prompt_tokens_details"):
        cached = count(details, "cached_tokens") or 0
        written = count(details, "cache_write_tokens") or 0
    if details := said.get("completion_tokens_details"):
        reasoning = count(details, "reasoning_tokens") or 0
    cached = cached if cached <= given else 0
    written = written if cached + written <= given else 0
    return Usage(input=given, output=made, cached=cached, cache_write=written, reasoning=min(reasoning, made))
