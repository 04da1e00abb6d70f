"""The bundled price table: USD per million tokens of the providers' public lists, asked by provider, then by its api.

The file's own `prices:` come first. Refuses to guess: a model that isn't named exactly has no price.
Source: https://platform.openai.com/docs/pricing, standard tier.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

VERSION: Final = "bundled-2025-11"

BUNDLED: Final[Mapping[str, tuple[int, int, int]]] = {
    "openai/gpt-5": (1_250_000, 10_000_000, 125_000),
    "openai/gpt-5-mini": (250_000, 2_000_000, 25_000),
    "openai/gpt-5-nano": (50_000, 400_000, 5_000),
}
"""By `API/MODEL`: input, output, cached input, in pico-dollars a token (USD per million x 10⁶)."""
