"""A provider's prompt cache: how much of a prompt it has seen before, by OpenAI's rule.

Owns the last prompts. Refuses to know prices, and when a cache forgets: it never does here but for lack of room.
Source: https://platform.openai.com/docs/guides/prompt-caching: exact prefixes, from 1,024 tokens on, in steps of 128.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from buspass.testing.provider_wire import tokens

LEAST, STEP, KEPT = 1_024, 128, 8
"""Tokens from which a prefix counts, tokens of a step, prompts that are remembered."""


class PromptCache:
    """What was asked lately."""

    def __init__(self) -> None:
        self._prompts: deque[bytes] = deque(maxlen=KEPT)

    def hit(self, body: Mapping[str, Any]) -> int:
        """Tokens of this request's input that an earlier request began with; it is remembered."""
        parts = [body.get("tools") or [], body["messages"]]
        prompt = json.dumps(parts, separators=(",", ":"), ensure_ascii=False).encode().removesuffix(b"]]")
        longest = max((_common(old, prompt) for old in self._prompts), default=0)
        self._prompts = deque((old for old in self._prompts if not prompt.startswith(old)), KEPT)
        self._prompts.append(prompt)
        seen = min(tokens(prompt[:longest]), tokens(prompt))
        return seen // STEP * STEP if seen >= LEAST else 0


def _common(old: bytes, new: bytes) -> int:
    """How many bytes two prompts begin with alike."""
    if new.startswith(old):
        return len(old)
    low, high = 0, min(len(old), len(new))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if old[:middle] == new[:middle] else (low, middle - 1)
    return low
