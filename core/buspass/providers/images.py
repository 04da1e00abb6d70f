"""What a picture costs in tokens: its size in pixels, read from its first bytes, through the provider's formula.

Sources, each formula as data: platform.openai.com/docs/guides/images-vision ("calculating costs") and
platform.claude.com/docs/en/build-with-claude/vision. The formulas are upper bounds: where a document and what was
measured differ, the dearer holds. Knows no budget and no request.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from buspass.model import Image

HEAD: Final = 512 * 1024
"""Bytes of a picture that are read: a JPEG's size stands after its metadata, which can be long."""
type Size = tuple[int, int]


def size(image: Image) -> Size | None:
    """Width and height in pixels, or None where the first bytes don't say."""
    encoded = image.data[: HEAD // 3 * 4]
    try:
        head = binascii.a2b_base64(encoded[: len(encoded) // 4 * 4])
    except ValueError:  # no base64, or no ASCII
        return None
    for magic, read in FORMATS:
        if re.match(magic, head):
            found = read(head)
            return found if found is not None and min(found) > 0 else None
    return None


def tokens(api: str, model: str, image: Image) -> int | None:
    """Input tokens that this picture makes at most, or None where no formula is known."""
    found = size(image)
    if found is None:
        return None
    if api == "anthropic":
        return _anthropic(*found)
    for name, formula in OPENAI.items():
        if api == "openai" and re.fullmatch(rf"{re.escape(name)}(-\d{{4}}-\d\d-\d\d|-latest)?", model):
            return formula.tokens(*found, image.detail)
    return None


class Tiles(Struct, frozen=True, kw_only=True):
    """`base` once, and `tile` for each 512 × 512 px after the picture was fitted: long side 2048, short side 768."""

    base: int
    tile: int

    def tokens(self, width: int, height: int, detail: str) -> int:
        if detail == "low":
            return self.base
        scale = min(1.0, 2048 / max(width, height))
        scale = min(scale, 768 / min(width, height))
        across, down = (math.ceil(math.ceil(side * scale) / 512) for side in (width, height))
        return self.base + self.tile * across * down


class Patches(Struct, frozen=True, kw_only=True):
    """`percent` of a token for each 32 × 32 px, at most `budget` of them (`original` where that detail is asked)."""

    percent: int
    budget: int = 1536
    original: int = 1536

    def tokens(self, width: int, height: int, detail: str) -> int:
        patches = -(-width // 32) * -(-height // 32)
        budget = self.original if detail in {"original", "auto"} else self.budget
        return -(-min(patches, budget) * self.percent // 100)


OPENAI: Final[Mapping[str, Tiles | Patches]] = {
    "gpt-4o": Tiles(base=85, tile=170),
    "chatgpt-4o": Tiles(base=85, tile=170),
    "gpt-4.1": Tiles(base=85, tile=170),
    "gpt-4o-mini": Tiles(base=2833, tile=5667),
    "o1": Tiles(base=75, tile=150),
    "o3": Tiles(base=75, tile=150),
    "gpt-5": Tiles(base=70, tile=140),
    "gpt-5-chat": Tiles(base=70, tile=140),
    "gpt-5-mini": Patches(percent=162),
    "gpt-5-nano": Patches(percent=246),
    "gpt-4.1-mini": Patches(percent=162),
    "gpt-4.1-nano": Patches(percent=246),
    "o4-mini": Patches(percent=172),
    "gpt-5.4": Patches(percent=120, budget=2500, original=10_000),
    "gpt-5.4-mini": Patches(percent=162, budget=2500),
    "gpt-5.4-nano": Patches(percent=246, budget=2500),
}
"""Models by name, dated versions of them included. A model that is not here is unbounded with pictures."""
ANTHROPIC_MOST: Final = 5000
"""A picture above the largest native resolution (2576 px, 4784 patches) is scaled down to it before it is counted."""


def _anthropic(width: int, height: int) -> int:
    """Width × height / 750 by the older page, a token for each 28 × 28 px by the newer one: the larger."""
    patches = -(-width // 28) * -(-height // 28)
    return min(max(patches, -(-width * height // 750)), ANTHROPIC_MOST)


def _png(head: bytes) -> Size | None:
    if head[12:16] != b"IHDR" or len(head) < 24:
        return None
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def _gif(head: bytes) -> Size | None:
    if len(head) < 10:
        return None
    return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")


def _webp(head: bytes) -> Size | None:
    kind, body = head[12:16], head[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None


def _jpeg(head: bytes) -> Size | None:
    """Walks the segments up to the first frame header (SOF0 … SOF15 without DHT, JPG and DAC)."""
    at = 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            return None
        marker = head[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            return int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7])
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
        else:
            length = int.from_bytes(head[at + 2 : at + 4])
            if length < 2 or marker in {0xD9, 0xDA}:  # the picture itself, and no header before it
                return None
            at += 2 + length
    return None


FORMATS: Final[tuple[tuple[bytes, Callable[[bytes], Size | None]], ...]] = (
    (rb"\x89PNG\r\n\x1a\n", _png),
    (rb"GIF8[79]a", _gif),
    (rb"(?s)RIFF....WEBP", _webp),
    (rb"\xff\xd8\xff", _jpeg),
)
