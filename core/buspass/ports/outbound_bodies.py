"""What every outbound adapter does with an answer's bytes: unpack them a bounded piece at a time, and count them.

Owns which encodings are taken and where a body is too large. Refuses to know a driver.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterable
from typing import Final

from buspass.ports.outbound import Ambiguous, TooLarge

CHUNK: Final = 65_536
_GZIP: Final = 16 + zlib.MAX_WBITS

SENT: Final = {"user-agent": "buspass", "accept": "*/*", "accept-encoding": "gzip, identity"}
"""Headers of every request, unless it brings its own. An answer may come as it is or gzipped, nothing else."""


def fits(size: int, limit: int) -> None:
    """Raise TooLarge for a body above the limit."""
    if size > limit:
        raise TooLarge(f"the answer is larger than the {limit} bytes that are taken")


def announced(length: str, limit: int) -> None:
    """Raise TooLarge where `Content-Length` says already that the body is above the limit."""
    if length.isdecimal():
        fits(int(length[:20]), limit)


def named(pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, str], str]:
    """Give headers by lower-case name, the last of a repeated one, and the body's encoding.

    Headers that spoke of the packed body are gone.
    """
    headers = {name.lower(): value for name, value in pairs}
    encoding = headers.pop("content-encoding", None)
    if encoding is not None:
        headers.pop("content-length", None)
    return headers, (encoding or "identity").strip().lower()


def readable(stream: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Give the body's bytes as they come, unpacked. Raises Ambiguous for an encoding that was not asked for."""
    if encoding not in ("identity", "gzip", "x-gzip", ""):
        raise Ambiguous(f"the answer is encoded as {encoding[:40]!r}, which was not asked for")
    return _unpacked(stream) if "gzip" in encoding else stream


async def whole(stream: AsyncIterator[bytes], limit: int) -> bytes:
    """Read a body to its end, and stop at the first byte above `limit`."""
    parts: list[bytes] = []
    size = 0
    async for chunk in stream:
        size += len(chunk)
        fits(size, limit)
        parts.append(chunk)
    return b"".join(parts)


async def _unpacked(packed: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Unpack gzip a bounded piece at a time, so that a small body can't become a large one unseen."""
    unpacking = zlib.decompressobj(_GZIP)
    empty = True
    try:
        async for chunk in packed:
            empty = False
            waiting = chunk
            while waiting and not unpacking.eof:
                yield unpacking.decompress(waiting, CHUNK)
                waiting = unpacking.unconsumed_tail
    except zlib.error as error:
        raise Ambiguous("the answer says gzip and is not") from error
    if not (unpacking.eof or empty) or unpacking.unused_data:
        raise Ambiguous("the answer's gzip is cut short or followed by something else")
