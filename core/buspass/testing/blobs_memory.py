"""The executable specification of the blobs port. Owns bytes in memory; refuses to be durable."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence

from buspass.ports.blobs import BlobConflict, BlobsUnavailable, check_name, check_page, check_put


class MemoryBlobs:
    """Blobs in memory. While `down`, every call raises BlobsUnavailable."""

    def __init__(self) -> None:
        self.down = False
        self._closed = False
        self._blobs: dict[str, tuple[bytes, str]] = {}

    async def put(self, name: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        check_put(name, data, if_match, if_none_match)
        await self._arrive()
        there = self._blobs.get(name)
        if if_none_match and there is not None:
            raise BlobConflict(f"blob {name!r} is there already")
        if if_match is not None and (there is None or there[1] != if_match):
            raise BlobConflict(f"blob {name!r} is not the one with tag {if_match!r}")
        tag = hashlib.sha256(data).hexdigest()[:32]
        self._blobs[name] = (data, tag)
        return tag

    async def get(self, name: str) -> tuple[bytes, str] | None:
        check_name(name)
        await self._arrive()
        return self._blobs.get(name)

    async def delete(self, name: str) -> None:
        check_name(name)
        await self._arrive()
        self._blobs.pop(name, None)

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        check_page(prefix, after, limit)
        await self._arrive()
        return sorted(name for name in self._blobs if name.startswith(prefix) and name > after)[:limit]

    async def close(self) -> None:
        self._closed = True

    async def _arrive(self) -> None:
        if self.down or self._closed:
            raise BlobsUnavailable("the store is closed" if self._closed else "the store is down")
        await asyncio.sleep(0)
