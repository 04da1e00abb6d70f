"""Usage as Anthropic counts it. Source: platform.claude.com/docs/en/build-with-claude/prompt-caching, "usage".

`input_tokens` is only what was neither read from a cache nor written to one: the whole input is the sum of the three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from buspass.model import Usage
from buspass.providers.document import count

COUNTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")


def usage(said: Any) -> Usage:
    """Usage of a whole message. Without both plain counts it is unknown; nonsense is taken the dearer way."""
    if not isinstance(said, dict) or count(said, "input_tokens") is None or count(said, "output_tokens") is None:
        return Usage(known=False)
    return counted(said, known=True)


def counted(said: Mapping[str, Any], *, known: bool) -> Usage:
    """What these counts say; a missing one counts 0. An hour's share of the cache written is never above the whole."""
    plain, written, read, made = (count(said, name) or 0 for name in COUNTS)
    long = count(said.get("cache_creation"), "ephemeral_1h_input_tokens") or 0
    thought = count(said.get("output_tokens_details"), "thinking_tokens") or 0
    return Usage(
        input=plain + written + read,
        output=made,
        cached=read,
        reasoning=min(thought, made),
        cache_write=written,
        cache_write_1h=min(long, written),
        known=known,
    )
