"""What a picture may cost: its size from its first bytes, through each provider's documented formula."""

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from buspass.config.settings import Target
from buspass.errors import Problem
from buspass.model import Image
from buspass.providers.bounds import bound
from buspass.providers.images import ANTHROPIC_MOST, size, tokens
from buspass.surfaces import anthropic_messages, openai_chat


def png(w: int, h: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + struct.pack(">II", w, h) + b"\x08\x02\0\0\0"


def gif(w: int, h: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", w, h) + b"\0\0\0"


def jpeg(w: int, h: int, sof: int = 0xC0, before: bytes = b"") -> bytes:
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 4000) + b"\xff\xc0" * 2000  # metadata may hold what looks like a header
    return b"\xff\xd8" + exif + b"\xff\xff\xc4\x00\x04ab" + before + bytes([0xFF, sof]) + struct.pack(">HBHHB", 17, 8, h, w, 3)  # fmt: skip


def riff(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


def webp(w: int, h: int) -> bytes:
    return riff(b"VP8X", b"\0\0\0\0" + (w - 1).to_bytes(3, "little") + (h - 1).to_bytes(3, "little"))


def lossy(w: int, h: int) -> bytes:
    return riff(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", w, h))


def lossless(w: int, h: int) -> bytes:
    return riff(b"VP8L", b"\x2f" + ((w - 1) | (h - 1) << 14).to_bytes(4, "little") + b"\0" * 5)


def image(data: bytes, detail: str = "auto") -> Image:
    return Image(path="messages[0].content[0]", data=base64.b64encode(data).decode(), detail=detail)


@pytest.mark.parametrize("made", [png, gif, jpeg, webp, lossy, lossless])
@pytest.mark.parametrize("pixels", [(1, 1), (640, 480), (3024, 4032), (16383, 16383)])
def test_every_format_tells_its_size(made, pixels):
    assert size(image(made(*pixels))) == pixels


@pytest.mark.parametrize("sof", [0xC0, 0xC1, 0xC2, 0xCF])
def test_every_kind_of_jpeg_tells_its_size(sof):
    assert size(image(jpeg(640, 480, sof))) == (640, 480)


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg width='1' height='1'/>", b"BM" + b"\0" * 60, png(1, 1)[:20], gif(1, 1)[:8], webp(1, 1)[:24], jpeg(1, 1)[:-8], png(0, 5), gif(5, 0), b"\xff\xd8\xff\xd9" + b"\0" * 20, b"\xff\xd8\xff\xe0\x00\x01" + b"\0" * 20, riff(b"VP8 ", b"\0" * 10), b"\xff\xd8" + b"\xff\xe1\xff\xff" + b"\0" * 600_000],
)  # fmt: skip
def test_what_does_not_tell_has_no_size(data):
    assert size(image(data)) is None


@given(
    st.binary(max_size=200), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF1234WEBP", b""])
)
def test_nothing_that_a_client_sends_breaks_the_reader(data, head):
    found = size(image(head + data))
    assert found is None or min(found) > 0
    size(Image(path="p", data=data.decode("latin-1")))


DOCUMENTED = [
    # platform.openai.com/docs/guides/images-vision: its own examples
    ("openai", "gpt-4o", (1024, 1024), "high", 765),
    ("openai", "gpt-4o-2024-08-06", (2048, 4096), "high", 1105),
    ("openai", "gpt-4o", (4096, 8192), "low", 85),
    ("openai", "gpt-4o", (512, 512), "auto", 255),
    ("openai", "gpt-5", (1024, 1024), "high", 630),
    ("openai", "gpt-4.1-mini", (1024, 1024), "auto", 1659),  # 1024 patches × 1.62
    ("openai", "gpt-4.1-mini", (1800, 2400), "auto", 2489),  # scaled to 1452 patches: the bound is the budget, 1536
    ("openai", "o4-mini", (32, 33), "auto", 4),  # 2 patches × 1.72
    # platform.claude.com/docs/en/build-with-claude/vision: width × height / 750, or patches of 28 px
    ("anthropic", "claude-opus-4-8", (1000, 1000), "auto", 1334),
    ("anthropic", "claude-opus-4-8", (200, 200), "auto", 64),
    ("anthropic", "claude-opus-4-8", (8000, 8000), "auto", ANTHROPIC_MOST),
]


@pytest.mark.parametrize(("api", "model", "pixels", "detail", "most"), DOCUMENTED)
def test_the_documented_formulas(api, model, pixels, detail, most):
    assert tokens(api, model, image(png(*pixels), detail)) == most


@pytest.mark.parametrize(("api", "model"), [("openai", "gpt-9"), ("openai", "gpt-5-mini-tuned"), ("openai", "qwen3-vl"), ("smoke", "gpt-4o")])  # fmt: skip
def test_a_model_without_a_formula_has_none(api, model):
    assert tokens(api, model, image(png(1, 1))) is None


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def chat(data: bytes):
    part = {"type": "image_url", "image_url": {"url": url(data)}}
    return openai_chat.parse({"model": "m", "messages": [{"role": "user", "content": [part]}]})


def messages(data: bytes):
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}}  # fmt: skip
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    return anthropic_messages.parse({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [block, result]}]})  # fmt: skip


TARGET = Target(provider="p", model="gpt-4o", weight=1, price=None)


@pytest.mark.parametrize("api", ["openai", "anthropic"])
def test_pictures_are_added_to_the_bound_by_their_formula_and_not_by_their_bytes(api):
    for made, pictures in ((chat, 1), (messages, 2)):
        small, large = (bound(made(png(512, side)), TARGET, 9, api=api).input_tokens for side in (512, 1024))
        each = [tokens(api, "gpt-4o", image(png(512, side))) for side in (512, 1024)]
        assert large - small == pictures * (each[1] - each[0]) > 0
        padded = bound(made(png(512, 512) + b"\0" * 100_000), TARGET, 9, api=api)
        assert padded.input_tokens == small


@pytest.mark.parametrize("made", [chat, messages])
@pytest.mark.parametrize("model", ["gpt-4o", "qwen3-vl"])
def test_a_picture_that_no_formula_covers_is_unbounded(made, model):
    ask = made(png(1, 1) if model == "qwen3-vl" else b"\0" * 90)
    with pytest.raises(Problem) as caught:
        bound(ask, replace(TARGET, model=model), 9, api="openai")
    assert caught.value.code == "unbounded"
    assert caught.value.errors[0]["path"] == "messages[0].content[0]"
