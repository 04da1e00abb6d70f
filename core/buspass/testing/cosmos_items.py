"""The documents of one simulated Cosmos DB container: what each operation does to them, alone and in a batch.

Owns documents, their ETags, conditions, limits, expiry and rollback. Refuses to know HTTP.

Sources (learn.microsoft.com): rest/api/cosmos-db/http-status-codes-for-cosmosdb; azure/cosmos-db/concepts-limits (2 MB
an item, 100 operations and 2 MB a batch, ids of 1,023 bytes), …/transactional-batch (the failed operation has its own
code, all others 424), …/partial-document-update (ten operations, `set`, `incr` and `add` make a missing field, paths
of RFC 6902, a missing parent is 400), …/time-to-live.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

from buspass.testing import cosmos_sql

LARGEST: Final = 2 * 1024 * 1024
"""Bytes of an item's JSON in UTF-8, and of a batch."""
OPERATIONS: Final = 100
"""Operations in a batch."""
PATCHES: Final = 10
"""Operations in a patch."""

_SYSTEM: Final = ("id", "_rid", "_self", "_etag", "_ts", "_attachments")
_FORBIDDEN: Final = ("/", "\\", "?", "#")

type Document = dict[str, Any]


class Fault(Exception):  # noqa: N818  (it is an answer)
    """An answer that is no success: a status of the REST API, its sub-status and a sentence."""

    def __init__(self, status: int, why: str = "", *, sub: int = 0, after_ms: int | None = None) -> None:
        super().__init__(status, why)
        self.status, self.why, self.sub, self.after_ms = status, why, sub, after_ms


class Done(Struct, frozen=True):
    """A success: its status, and the document as it became, if there is one."""

    status: int
    document: Document | None = None


class Request(Struct, frozen=True, kw_only=True):
    """One operation on one document, as a batch carries it and a point operation comes to."""

    kind: str
    id: str = ""
    body: Any = None
    if_match: str | None = None
    if_none_match: str | None = None


class Container(Struct, kw_only=True):
    """A container: its properties as the service gives them, and documents by partition and id."""

    properties: dict[str, Any]
    now: Callable[[], float]
    documents: dict[str, dict[str, Document]] = field(default_factory=dict)
    made: int = 0

    @property
    def key_path(self) -> str:
        """The name of the property that the partition key lies in; nested paths are not simulated."""
        path: str = self.properties["partitionKey"]["paths"][0]
        return path.removeprefix("/")

    def alive(self, partition: str, key: str) -> Document | None:
        document = self.documents.get(partition, {}).get(key)
        return None if document is None or self._expired(document) else document

    def everything(self) -> list[tuple[str, Document]]:
        return [
            (partition, document)
            for partition, documents in self.documents.items()
            for document in documents.values()
            if not self._expired(document)
        ]

    def one(self, partition: str, request: Request) -> Done:
        """Do a point operation. Raises Fault."""
        changes: dict[str, Document | None] = {}
        done = self._do(partition, request, changes)
        self._commit(partition, changes)
        return done

    def batch(self, partition: str, requests: Sequence[Request]) -> list[Done | Fault]:
        """Do all or nothing: one answer an operation. Raises Fault for a batch that is no batch."""
        if not 1 <= len(requests) <= OPERATIONS:
            raise Fault(400, f"a batch has 1 to {OPERATIONS} operations, not {len(requests)}")
        changes: dict[str, Document | None] = {}
        answers: list[Done | Fault] = []
        for index, request in enumerate(requests):
            try:
                answers.append(self._do(partition, request, changes))
            except Fault as fault:
                return [fault if n == index else Fault(424, "failed dependency") for n in range(len(requests))]
        self._commit(partition, changes)
        return answers

    # ── one operation, on what lies there and what the batch has changed before ──

    def _do(self, partition: str, request: Request, changes: dict[str, Document | None]) -> Done:
        match request.kind:
            case "Create" | "Upsert":
                return self._write(partition, request, changes)
            case "Read":
                there = self._there(partition, request.id, changes)
                if request.if_none_match == there["_etag"]:
                    raise Fault(304)
                return Done(200, there)
            case "Replace":
                self._matching(partition, request, changes)
                if not isinstance(request.body, dict) or request.body.get("id") != request.id:
                    raise Fault(400, "the id in the body is another one than that in the address")
                changes[request.id] = self._stamped(partition, request.body)
                return Done(200, changes[request.id])
            case "Delete":
                self._matching(partition, request, changes)
                changes[request.id] = None
                return Done(204)
            case "Patch":
                there = self._matching(partition, request, changes)
                changes[request.id] = self._patched(partition, there, request.body)
                return Done(200, changes[request.id])
        raise Fault(400, f"unknown operation {request.kind!r}")

    def _write(self, partition: str, request: Request, changes: dict[str, Document | None]) -> Done:
        key = request.body.get("id") if isinstance(request.body, dict) else None
        if not isinstance(key, str) or not key or len(key.encode()) > 1023 or any(c in key for c in _FORBIDDEN):
            raise Fault(400, f"invalid id {key!r}")
        there = changes[key] if key in changes else self.alive(partition, key)
        if there is not None and request.kind == "Create":
            raise Fault(409, f"a document with id {key!r} is there already")
        if request.if_match is not None and there is not None and there["_etag"] != request.if_match:
            raise Fault(412, "one of the specified preconditions is not met")
        changes[key] = self._stamped(partition, request.body)
        return Done(200 if there is not None else 201, changes[key])

    def _there(self, partition: str, key: str, changes: Mapping[str, Document | None]) -> Document:
        there = changes[key] if key in changes else self.alive(partition, key)
        if there is None:
            raise Fault(404, f"no document with id {key!r}")
        return there

    def _matching(self, partition: str, request: Request, changes: Mapping[str, Document | None]) -> Document:
        there = self._there(partition, request.id, changes)
        if request.if_match is not None and request.if_match not in ("*", there["_etag"]):
            raise Fault(412, "one of the specified preconditions is not met")
        return there

    def _patched(self, partition: str, there: Document, body: Any) -> Document:
        operations = body.get("operations") if isinstance(body, dict) else None
        if not isinstance(operations, list) or not 1 <= len(operations) <= PATCHES:
            raise Fault(400, f"a patch has 1 to {PATCHES} operations")
        if body.get("condition") is not None:
            try:
                where = cosmos_sql.condition(body["condition"])
            except cosmos_sql.SyntaxFault as fault:
                raise Fault(400, str(fault)) from fault
            if not cosmos_sql.selects(where, there, {}):
                raise Fault(412, "one of the specified preconditions is not met")
        new: Document = json.loads(json.dumps(there))
        for operation in operations:
            _patch(new, operation, (*_SYSTEM, self.key_path))
        return self._stamped(partition, new)

    def _stamped(self, partition: str, body: Document) -> Document:
        if json.dumps([body.get(self.key_path)]) != partition:
            raise Fault(400, "the partition key in the document is another one than that in the header", sub=1001)
        document = {name: value for name, value in body.items() if name not in _SYSTEM or name == "id"}
        if len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()) > LARGEST:
            raise Fault(413, "the item is larger than 2 MB")
        self.made += 1
        rid = body.get("_rid") or f"{self.properties['_rid']}{self.made:012}"
        return document | {
            "_rid": rid,
            "_self": f"{self.properties['_self']}docs/{rid}/",
            "_etag": f'"{uuid.uuid4()}"',
            "_attachments": "attachments/",
            "_ts": int(self.now()),
        }

    def _commit(self, partition: str, changes: Mapping[str, Document | None]) -> None:
        documents = self.documents.setdefault(partition, {})
        for key, document in changes.items():
            if document is None:
                documents.pop(key, None)  # it may have been created by the same batch
            else:
                documents[key] = document

    def _expired(self, document: Document) -> bool:
        default = self.properties.get("defaultTtl")
        seconds = document.get("ttl", default)
        if default is None or not isinstance(seconds, int) or seconds < 0:
            return False
        return bool(document["_ts"] + seconds <= self.now())


def _patch(document: Document, operation: Any, untouchable: Sequence[str]) -> None:
    path = [part.replace("~1", "/").replace("~0", "~") for part in str(operation.get("path")).split("/")]
    if len(path) < 2 or path[0] or path[1] in untouchable:
        raise Fault(400, f"path {operation.get('path')!r} can't be patched")
    *above, last = path[1:]
    parent: Any = document
    for step in above:
        parent = parent.get(step) if isinstance(parent, dict) else None
    if not isinstance(parent, dict):
        raise Fault(400, f"path {operation['path']!r} has no object to lie in; arrays are not simulated")
    kind, value = operation.get("op"), operation.get("value")
    if kind in ("remove", "replace") and last not in parent:
        raise Fault(400, f"path {operation['path']!r} does not exist")
    if kind == "remove":
        del parent[last]
    elif kind in ("set", "add", "replace"):
        parent[last] = value
    elif kind == "incr":
        found = parent.get(last, 0)
        if isinstance(found, bool) or not isinstance(found, int | float) or not isinstance(value, int | float):
            raise Fault(400, f"path {operation['path']!r} is no number that could be incremented")
        parent[last] = double(found + value)
    else:
        raise Fault(400, f"unknown patch operation {kind!r}")


def double(number: float) -> float | int:
    """Keep a number as the service does: as a double, so that integers beyond 2⁵³ lose their last digits."""
    kept = float(number)
    return int(kept) if kept.is_integer() else kept
