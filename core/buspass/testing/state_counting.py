"""Counts what is asked of a state store. Owns the numbers; refuses to know the store it stands before."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from buspass.ports.state import (
    Applied,
    Item,
    Misfit,
    Operation,
    OutcomeUnknown,
    Refused,
    State,
    Unavailable,
)


class Count(Struct):
    """Calls of each method; `writes` are single operations as a store bills them, a refused one too."""

    reads: int = 0
    lists: int = 0
    finds: int = 0
    applies: int = 0
    writes: int = 0

    def reset(self) -> None:
        self.reads = self.lists = self.finds = self.applies = self.writes = 0


class Counting:
    """A store like the one it wraps, with a `count`."""

    def __init__(self, inner: State) -> None:
        self.inner = inner
        self.count = Count()

    async def read(self, partition: str, key: str) -> Item | None:
        self.count.reads += 1
        return await self.inner.read(partition, key)

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        self.count.lists += 1
        return await self.inner.list(partition, prefix, after, limit)

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        self.count.finds += 1
        return await self.inner.find(index, shard, until, limit)

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        self.count.applies += 1
        try:
            answer = await self.inner.apply(partition, operations)
        except Unavailable as error:
            self.count.writes += error.index
            raise
        except (OutcomeUnknown, Misfit) as error:
            self.count.writes += error.index + 1
            raise
        self.count.writes += answer.index + 1 if isinstance(answer, Refused) else len(operations)
        return answer

    async def close(self) -> None:
        await self.inner.close()
