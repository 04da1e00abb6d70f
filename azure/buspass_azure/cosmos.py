"""Azure Cosmos DB (NoSQL) as a state store: a partition of the port is a logical partition, an apply a transaction.

Owns the way from the port's methods to the SDK's, what an error means for a write, and what is tried again. Refuses
to know what an item means; texts and layout: `cosmos_wire`; the account: `cosmos_account`.

**Tried again**, for up to `patience` seconds, is only what the service surely did not do: a batch that it throttled
(429) or found in conflict with another (449), or whose refusal (412) the item no longer explains. A write that may
have been done never is (`OutcomeUnknown`: 408, any 5xx, an answer that was lost). An apply of more than a hundred steps
or 2 MB goes in several batches, of which a prefix may stand, as the port allows.

**Proven** on `buspass.testing.cosmos_server`, which answers as Microsoft documents; conditional patches and ETags also
on another implementation. **Unproven** until `make test-cloud` ran on an account of your own: how often the service
answers 449 where many write one item, whether a NUL in a text and names such as `-` in paths come through, that ORDER
BY sorts strings by code points (a page that does not is refused here), Entra ID, failovers, and what it all costs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from azure.core.exceptions import AzureError

from buspass.ports.state import (
    Applied,
    Item,
    Misfit,
    Operation,
    Ordinary,
    OutcomeUnknown,
    Put,
    Refused,
    State,
    Unavailable,
    Update,
    accepts,
    changed,
    check,
    check_names,
    check_page,
    plain,
)
from buspass_azure import cosmos_errors as errors
from buspass_azure import cosmos_wire as wire
from buspass_azure.access import Calls
from buspass_azure.cosmos_account import Account, connect, parse

PATIENCE: Final = 1.0
"""Seconds."""
_FINAL: Final = (400, 401, 403, 404)
_REFUSALS: Final = (404, 409, 412)
_BUSY: Final = (429, 449)
_TOO_LARGE: Final = 413
_RACES: Final = 5
"""Times that an item may change between a refusal and the look at it before the refusal is given as it was."""


async def open(url: str) -> State:  # noqa: A001  (the name of every adapter's way in)
    """Open `cosmos://ACCOUNT/DATABASE[/CONTAINER]` (container `buspass`); see `cosmos_account.parse` for options.

    The container must exist, with partition key /part; the account's consistency must be Strong. Raises ValueError
    for a bad URL or an account that can't keep the port's promises, Unavailable where it can't be reached.
    """
    return CosmosState(await connect(parse(url)), patience=PATIENCE)


class CosmosState:
    """The port over an open account. Bound to the event loop it was opened on."""

    def __init__(self, account: Account, *, patience: float) -> None:
        self._account, self._container, self._patience = account, account.container, patience
        self._calls = Calls()

    async def read(self, partition: str, key: str) -> Item | None:
        check_names(partition, key)
        async with self._calling():
            return await self._read(partition, key)

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        check_names(partition)
        check_page(limit, prefix, after)
        parameters = wire.listing(prefix, after)
        async with self._calling():
            found = await self._query(wire.LIST, parameters, limit, partition_key=partition)
        keys = [each["k"] for each in found]
        if not all(key.startswith(prefix) and key > after for key in keys) or keys != sorted(keys):
            raise Unavailable(0, "the account does not sort keys by code points")
        return [(key, wire.item(each)) for key, each in zip(keys, found, strict=True)]

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        check_names(index, shard)
        check_page(limit, until)
        text, parameters = wire.finding(index, shard, until)
        async with self._calling():
            found = await self._query(text, parameters, limit)
        return [(p, k) for _, p, k in sorted((each["o"], each["p"], each["k"]) for each in found)]

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        check_names(partition)
        check(operations)
        async with self._calling():
            return await self._apply(partition, 0, tuple([plain(operation) for operation in operations]))

    async def close(self) -> None:
        async with self._calls.ending() as first:
            if first:
                await self._account.close()

    def _calling(self) -> AbstractAsyncContextManager[None]:
        if self._calls.closed:
            raise Unavailable(0, "the store is closed")
        return self._calls.one()

    # ── reading ──

    async def _read(self, partition: str, key: str) -> Item | None:
        async def point() -> Item | None:
            try:
                return wire.item(await self._container.read_item(wire.identity(key), partition_key=partition))
            except AzureError as error:
                if errors.missing_item(error):
                    return None
                raise

        return await self._patiently(point)

    async def _query(
        self, text: str, parameters: wire.Parameters, limit: int, **more: Any
    ) -> Sequence[Mapping[str, Any]]:
        async def pages() -> Sequence[Mapping[str, Any]]:
            found: list[Mapping[str, Any]] = []
            async for answer in self._container.query_items(text, parameters=parameters, max_item_count=limit, **more):
                found.append(answer)
                if len(found) == limit:
                    break
            return found

        return await self._patiently(pages)

    async def _patiently[T](self, reading: Callable[[], Awaitable[T]]) -> T:
        """Read; again while the service is busy, and once more where it failed. Raises Unavailable."""
        pauses = errors.Pauses(self._patience)
        failures = 0
        while True:
            try:
                return await reading()
            except AzureError as error:
                status = errors.status_of(error)
                failures += status != 429
                if failures > 1 or status in _FINAL or not await pauses.pause(error):
                    raise Unavailable(0, errors.why(error)) from error

    # ── writing ──

    async def _apply(self, partition: str, first: int, operations: tuple[Ordinary, ...]) -> Applied | Refused:
        """Apply in as few batches as there are steps for. `first` is the index of the first operation."""
        answer: Applied | Refused = Applied(None)
        while operations:
            count = wire.fitting(operations)
            answer = await self._commit(partition, first, operations[:count])
            if isinstance(answer, Refused):
                break
            first, operations = first + count, operations[count:]
        return answer

    async def _commit(self, partition: str, first: int, operations: tuple[Ordinary, ...]) -> Applied | Refused:
        """One batch, until it is answered. Raises what the port says, with indexes from `first`."""
        pauses = errors.Pauses(self._patience)
        races = 0
        while True:
            try:
                return await self._batch(partition, first, operations)
            except AzureError as error:
                status, step = errors.status_of(error), errors.failed_step(error)
                if step is not None and status in _REFUSALS:
                    which = wire.operation_at(operations, step)
                    refused = await self._refusal(partition, first + which, operations[which])
                    races += 1
                    if races > _RACES or not accepts(operations[which], refused.item):
                        return refused
                elif status == _TOO_LARGE:
                    return await self._halved(partition, first, operations)
                elif not errors.surely_not_done(error):
                    raise OutcomeUnknown(first, errors.why(error)) from error
                elif status not in _BUSY or not await pauses.pause(error):
                    raise Unavailable(first, errors.why(error)) from error

    async def _batch(self, partition: str, first: int, operations: tuple[Ordinary, ...]) -> Applied:
        steps: list[wire.Step] = []
        for operation in operations:
            keep = await self._kept(partition, first, operation) if wire.bare(operation) else None
            steps += wire.steps(partition, operation, keep)
        try:
            results = await self._container.execute_item_batch(steps, partition_key=partition)
            put = isinstance(operations[-1], Put | Update)
            return Applied(wire.item(results[-1]["resourceBody"]) if put else None)
        except (TypeError, LookupError, ValueError) as error:
            raise OutcomeUnknown(first, f"Cosmos DB: the answer is none that a batch has: {error!r}") from error

    async def _halved(self, partition: str, first: int, operations: tuple[Ordinary, ...]) -> Applied | Refused:
        """A batch of more than 2 MB is done in two; the first half then stands, whatever becomes of the second."""
        half = len(operations) // 2
        if not half:
            raise Misfit(first, f"{operations[0].key!r}: the item would be larger than Cosmos DB's 2 MB")
        answer = await self._apply(partition, first, operations[:half])
        return answer if isinstance(answer, Refused) else await self._apply(partition, first + half, operations[half:])

    async def _kept(self, partition: str, first: int, operation: Ordinary) -> str | None:
        """Give a name that an item still has after an update that only removes; None where there is none."""
        assert isinstance(operation, Update)
        there = await self._look(partition, first, operation.key)
        gone = {path[0] for path in operation.remove}
        return next((name for name in there or () if name not in gone), None)

    async def _refusal(self, partition: str, index: int, operation: Ordinary) -> Refused:
        """Look why an operation was refused: at the item as it is now. Raises Misfit, and Unavailable(index)."""
        there = await self._look(partition, index, operation.key)
        if isinstance(operation, Update) and there is not None and accepts(operation, there):
            changed(operation, there, index)
        return Refused(index, there)

    async def _look(self, partition: str, index: int, key: str) -> Item | None:
        try:
            return await self._read(partition, key)
        except Unavailable as error:
            raise Unavailable(index, error.why) from error
