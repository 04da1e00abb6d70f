"""DynamoDB as a state store: one table, each operation a conditional write of one item, in the port's order.

Owns the way from the port's methods to requests and back. Refuses to know what an item means, how a request is signed
and sent (`client`), what an error means (`dynamodb_errors`) and how the table looks (`dynamodb_table`).

No transactions: two of them that meet on an item are cancelled, not queued, and cost double. So an apply that stops
leaves its prefix standing. A write is sent once; reads, which are strongly consistent, up to three times.

Beside the memory adapter: an item takes at most 400 KB as DynamoDB counts (a larger one is a Misfit), an update as many
conditions and changes as fit into 4 KB of expression, `find` the indexes that the table has; its entries come within
seconds, as a rule within milliseconds.

What the tests' stand-in does not do, and the service does: throttle, refuse a write that meets somebody's transaction,
delay an index. Those are tested on the documented answers, and with `make test-cloud` on an account.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from buspass.jsontext import written
from buspass.ports.outbound import Ambiguous, NotSent, Response
from buspass.ports.state import (
    Applied,
    Delete,
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
from buspass_aws.client import AwsClient, address, suffix
from buspass_aws.dynamodb_errors import Answer
from buspass_aws.dynamodb_expression import check_index, item_of, place, request, sort_bound
from buspass_aws.dynamodb_table import KEY, PARTITION, shard_of, sort_of

WRITE: Final = 5.0
"""Seconds that a write may take; after them its outcome is unknown."""
READ: Final = 2.0
"""Seconds that a try of a read may take."""
_TABLE: Final = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_FORM: Final = "dynamodb://TABLE?region=REGION"
_VERSION: Final = "DynamoDB_20120810"
type Row = Mapping[str, Any]
type Rows = list[Row]

_AFTER: Final = "\x01"
_AFTER_ALL: Final = "\x7f"  # keys are printable ASCII


async def open(url: str) -> State:  # noqa: A001  (the name of every adapter's way in)
    """Open `dynamodb://TABLE?region=REGION[&endpoint=URL]`. Asks nothing: that the table is missing, its use says.

    `endpoint` is another address of the service: https, or http on this machine. Raises ValueError.
    """
    parts = address(url, _FORM)
    if parts.rest or not _TABLE.fullmatch(parts.name):
        raise ValueError(f"state {url!r}: allowed is {_FORM}; a table's name is 3-255 of [A-Za-z0-9_.-]")
    base = parts.endpoint or f"https://dynamodb.{parts.region}.{suffix(parts.region)}"
    return DynamoState(parts.name, parts.region, AwsClient("dynamodb", parts.region, base))


class DynamoState:
    """The port over a table that is there."""

    def __init__(self, table: str, region: str, client: AwsClient) -> None:
        self._table, self._region, self._client = table, region, client

    async def read(self, partition: str, key: str) -> Item | None:
        check_names(partition, key)
        body = {"TableName": self._table, "Key": place(partition, key), "ConsistentRead": True}
        return self._item((await self._ask("GetItem", body)).get("Item"))

    async def list(self, partition: str, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Item]]:
        check_names(partition)
        check_page(limit, prefix, after)
        low, high = max(prefix, after + _AFTER), prefix + _AFTER_ALL
        body = {
            "ConsistentRead": True,
            "KeyConditionExpression": f"{PARTITION} = :p AND {KEY} BETWEEN :l AND :h",
            "ExpressionAttributeValues": {":p": {"S": partition}, ":l": {"S": low}, ":h": {"S": high}},
        }
        rows = await self._rows(body, limit if low <= high else 0)  # DynamoDB calls an empty range a mistake
        return [(row[KEY]["S"], self._item(row) or {}) for row in rows]

    async def find(self, index: str, shard: str, until: str, limit: int) -> Sequence[tuple[str, str]]:
        check_names(index, shard)
        check_page(limit, until)
        check_index(index)
        body = {
            "IndexName": index,
            "KeyConditionExpression": f"{shard_of(index)} = :s AND {sort_of(index)} < :u",
            "ExpressionAttributeValues": {":s": {"S": shard}, ":u": sort_bound(until)},
        }
        return [(row[PARTITION]["S"], row[KEY]["S"]) for row in await self._rows(body, limit)]

    async def apply(self, partition: str, operations: Sequence[Operation]) -> Applied | Refused:
        check_names(partition)
        check(operations)
        asked = [plain(operation) for operation in operations]
        requests = [request(self._table, partition, operation) for operation in asked]
        answer: Applied | Refused = Applied(None)
        index = 0
        try:
            async with self._client.working():
                for index, (operation, (action, body)) in enumerate(zip(asked, requests, strict=True)):
                    answer = await self._write(partition, index, operation, action, body)
                    if isinstance(answer, Refused):
                        break
        except NotSent as error:
            raise Unavailable(index, str(error)) from error
        except Ambiguous as error:
            raise OutcomeUnknown(index, str(error)) from error
        return answer

    async def close(self) -> None:
        await self._client.close()

    # ── writing ──

    async def _write(
        self, partition: str, index: int, operation: Ordinary, action: str, body: dict[str, Any]
    ) -> Applied | Refused:
        answer = Answer(
            await self._client.send("POST", "/", headers=_headers(action), body=_bytes(body), timeout=WRITE)
        )
        if answer.fine:
            return Applied(self._made(operation, answer.body))
        if answer.unknown:
            raise OutcomeUnknown(index, f"DynamoDB table {self._table!r}: {answer.status} {answer.code}")
        if answer.refused:
            return self._judged(index, operation, self._item(answer.body.get("Item"), index))
        if answer.unfit:
            return self._judged(index, operation, await self._met(partition, operation.key, index))
        if answer.too_large:
            raise Misfit(index, f"{operation.key!r}: an item takes at most 400 KB in DynamoDB")
        raise Unavailable(index, self._why(answer))

    async def _met(self, partition: str, key: str, index: int) -> Item | None:
        try:
            return await self.read(partition, key)
        except Unavailable as error:
            raise Unavailable(index, error.why) from error

    def _made(self, operation: Ordinary, body: Row) -> Item | None:
        if isinstance(operation, Delete):
            return None
        return operation.value if isinstance(operation, Put) else self._item(body.get("Attributes"))

    def _judged(self, index: int, operation: Ordinary, item: Item | None) -> Refused:
        """Say why an operation was not applied, from the item that it met. Raises Misfit, Unavailable."""
        if not accepts(operation, item):
            return Refused(index, item)
        if isinstance(operation, Update):
            changed(operation, item or {}, index)
        raise Unavailable(index, f"{operation.key!r} changed while it was looked at")

    # ── asking ──

    async def _rows(self, body: Row, limit: int) -> Rows:
        """Query until there are `limit` rows or no more: an answer ends after 1 MB, however many were asked for."""
        rows: Rows = []
        asked = {"TableName": self._table, **body}
        async with self._working():
            while len(rows) < limit:
                answer = await self._ask("Query", {**asked, "Limit": limit - len(rows)})
                rows += answer["Items"]
                if "LastEvaluatedKey" not in answer:
                    break
                asked["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        return rows

    async def _ask(self, action: str, body: Row) -> Row:
        async with self._working():
            sent = await self._client.ask(
                "POST", "/", headers=_headers(action), body=_bytes(body), timeout=READ, again=_again
            )
        answer = Answer(sent)
        if not answer.fine:
            raise Unavailable(0, self._why(answer))
        found: Row = answer.body
        return found

    @asynccontextmanager
    async def _working(self) -> AsyncIterator[None]:
        try:
            async with self._client.working():
                yield
        except (NotSent, Ambiguous) as error:
            raise Unavailable(0, str(error)) from error

    def _why(self, answer: Answer) -> str:
        if answer.expired:
            self._client.renew()
        return answer.why(self._table, self._region)

    def _item(self, row: Row | None, index: int = 0) -> Item | None:
        try:
            return item_of(row)
        except ValueError as error:
            raise Unavailable(index, f"DynamoDB table {self._table!r} holds {error}") from error


def _again(response: Response) -> bool:
    answer = Answer(response)
    return answer.unknown or answer.throttled


def _headers(action: str) -> dict[str, str]:
    return {"content-type": "application/x-amz-json-1.0", "x-amz-target": f"{_VERSION}.{action}"}


def _bytes(body: Row) -> bytes:
    return written(body)
