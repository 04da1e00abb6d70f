"""A small, faithful Azure Cosmos DB (NoSQL) for tests: an account's REST interface on a loopback port, in process.

Owns addresses, keys, consistency levels, pages, partition key ranges, and the faults asked of it. Documents:
`cosmos_items`; queries: `cosmos_sql`; bytes: `cosmos_http`. Microsoft's SDK drives it unchanged over HTTP.

Sources (learn.microsoft.com): rest/api/cosmos-db/ (access-control-on-cosmosdb-resources, common-cosmosdb-rest-request-
headers, querying-cosmosdb-resources-using-the-rest-api, get-partition-key-ranges, http-status-codes-for-cosmosdb);
azure/cosmos-db/transactional-batch. The forms of batches and query plans are those that the SDK sends and reads.

What it does not show: how the service behaves under load of its own, more than one region, a failover, a partition that
splits, indexing and its delays, what an operation costs, Entra ID, arrays in patches, and weaker consistency than
strong (it only says which level the account has). Pages and the order of strings are as documented, not as measured.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from msgspec import Struct

from buspass.testing import cosmos_sql
from buspass.testing.cosmos_http import Answer, Asked, listening
from buspass.testing.cosmos_items import LARGEST, Container, Document, Done, Fault, Request, double

KEY: Final = base64.b64encode(b"a key for tests, 64 bytes long as the service's own are, no secret").decode()
LEVELS: Final = ("Eventual", "ConsistentPrefix", "Session", "BoundedStaleness", "Strong")
_PAGE: Final = 4 * 1024 * 1024
"""Bytes of documents in a page of a query."""


class Trouble(Struct, frozen=True, kw_only=True):
    """What one request meets. Without `status` and `drop` it is only late.

    `applied`: what was asked is done before the trouble shows. `drop`: the connection is closed without an answer.
    """

    status: int = 0
    sub: int = 0
    applied: bool = False
    drop: bool = False
    delay: float = 0.0
    retry_after_ms: int | None = None


class CosmosServer:
    """An account with one region. `meet` plans what the next writes (or reads) meet; `down` refuses everything."""

    def __init__(self, *, level: str = "Strong", key: str = KEY, ranges: int = 2) -> None:
        self.level, self.key, self.ranges = level, key, ranges
        self.many_writers = False
        self.down = False
        self.url = ""
        self.clock = time.time
        self.requests: list[tuple[str, str]] = []
        self.databases: dict[str, dict[str, Container]] = {}
        self._plans: dict[str, deque[Trouble | None]] = {"write": deque(), "read": deque()}

    def meet(self, *troubles: Trouble | None, kind: str = "write") -> None:
        """Say what the next writes meet (`kind`: write or read), one each; None is an undisturbed one."""
        self._plans[kind].extend(troubles)

    def calm(self) -> None:
        """Forget the planned troubles."""
        for plan in self._plans.values():
            plan.clear()

    def add(self, database: str, container: str, **properties: Any) -> Container:
        """Make a container as an operator would; its partition key is `/part` unless said otherwise."""
        body = {"id": container, "partitionKey": {"paths": ["/part"], "kind": "Hash", "version": 2}} | properties
        containers = self.databases.setdefault(database, {})
        rid = base64.b64encode(hashlib.sha256(f"{database}/{container}".encode()).digest()[:8]).decode()
        where = f"dbs/{database}/colls/{rid}/"
        containers[container] = Container(
            properties=body | {"_rid": rid, "_self": where, "_etag": '"1"', "_ts": int(self.clock())},
            now=lambda: self.clock(),  # noqa: PLW0108  (a test may set another clock)
        )
        return containers[container]

    # ── one request ──

    async def answer(self, asked: Asked) -> Answer | None:
        """Answer a request; None: close the connection without a word."""
        self.requests.append((asked.method, asked.path))
        trouble = self._trouble(asked)
        if trouble.delay:
            await asyncio.sleep(trouble.delay)
        answer = self._judged(asked) if trouble.applied or not (trouble.status or trouble.drop) else None
        if trouble.drop:
            return None
        if trouble.status:
            return _refusal(Fault(trouble.status, "planned", sub=trouble.sub, after_ms=trouble.retry_after_ms))
        return answer

    def _trouble(self, asked: Asked) -> Trouble:
        if self.down:
            return Trouble(status=503)
        if not asked.path.rstrip("/").endswith("/docs") and "/docs/" not in asked.path:
            return Trouble()
        reading = asked.method == "GET" or _is(asked, "x-ms-documentdb-isquery") or _plan(asked)
        plan = self._plans["read" if reading else "write"]
        return (plan.popleft() if plan else None) or Trouble()

    def _judged(self, asked: Asked) -> Answer:
        try:
            self._authorised(asked)
            self._consistent(asked)
            return self._routed(asked)
        except Fault as fault:
            return _refusal(fault)

    def _authorised(self, asked: Asked) -> None:
        parts = [unquote(part) for part in asked.path.split("/") if part]
        feed = len(parts) % 2
        kind = parts[-1] if feed else (parts[-2] if parts else "")
        text = f"{asked.method.lower()}\n{kind}\n{'/'.join(parts[:-1] if feed else parts)}\n"
        text += f"{asked.headers.get('x-ms-date', '').lower()}\n{asked.headers.get('date', '').lower()}\n"
        digest = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        wanted = f"type=master&ver=1.0&sig={base64.b64encode(digest).decode()}"
        if not hmac.compare_digest(unquote(asked.headers.get("authorization", "")), wanted):
            raise Fault(401, "the authorization header is not that of this account's key")

    def _consistent(self, asked: Asked) -> None:
        level = asked.headers.get("x-ms-consistency-level", self.level)
        if level not in LEVELS or LEVELS.index(level) > LEVELS.index(self.level):
            raise Fault(400, f"consistency level {level} is stronger than the account's, {self.level}")

    def _routed(self, asked: Asked) -> Answer:
        parts = [unquote(part) for part in asked.path.split("/") if part]
        match (asked.method, *parts):
            case ("GET",):
                return _json(200, self._account())
            case ("GET", "dbs", database):
                if database not in self.databases:
                    raise Fault(404, f"no database {database!r}")
                return _json(200, {"id": database, "_rid": "db==", "_self": f"dbs/{database}/"})
            case (method, "dbs", database, "colls", name, *rest):
                container = self.databases.get(database, {}).get(name)
                if container is None:
                    raise Fault(404, f"no container {name!r} in database {database!r}", sub=1003)
                return self._in_container(container, method, rest, asked)
        raise Fault(400, f"{asked.method} {asked.path} is not simulated")

    def _in_container(self, container: Container, method: str, rest: Sequence[str], asked: Asked) -> Answer:
        match (method, *rest):
            case ("GET",):
                return _json(200, container.properties)
            case ("GET", "pkranges"):
                return self._key_ranges(container, asked)
            case ("POST", "docs") if _plan(asked):
                return _query_plan(asked)
            case ("POST", "docs") if _is(asked, "x-ms-documentdb-isquery"):
                return self._queried(container, asked)
            case ("POST", "docs") if _is(asked, "x-ms-cosmos-is-batch-request"):
                return _batched(container, asked)
            case ("POST", "docs"):
                kind = "Upsert" if _is(asked, "x-ms-documentdb-is-upsert") else "Create"
                return _point(container, asked, Request(kind=kind, body=_body(asked), if_match=_if_match(asked)))
            case ("GET" | "PUT" | "DELETE" | "PATCH", "docs", key):
                kind = {"GET": "Read", "PUT": "Replace", "DELETE": "Delete", "PATCH": "Patch"}[method]
                body = _body(asked) if method in ("PUT", "PATCH") else None
                none = asked.headers.get("if-none-match")
                return _point(
                    container,
                    asked,
                    Request(kind=kind, id=key, body=body, if_match=_if_match(asked), if_none_match=none),
                )
        raise Fault(400, f"{asked.method} {asked.path} is not simulated")

    # ── the account and its partitions ──

    def _account(self) -> dict[str, Any]:
        here = [{"name": "Loopback", "databaseAccountEndpoint": self.url}]
        return {
            "id": "loopback",
            "_rid": "loopback",
            "writableLocations": here,
            "readableLocations": here,
            "enableMultipleWriteLocations": self.many_writers,
            "userConsistencyPolicy": {"defaultConsistencyLevel": self.level},
        }

    def _key_ranges(self, container: Container, asked: Asked) -> Answer:
        if asked.headers.get("if-none-match") == '"ranges"':
            return Answer(304, {"etag": '"ranges"'})
        edges = ["", *(f"{n * 256 // self.ranges:02X}" + "0" * 30 for n in range(1, self.ranges)), "FF"]
        ranges = [
            {"id": str(n), "minInclusive": edges[n], "maxExclusive": edges[n + 1], "parents": [], "status": "online"}
            for n in range(self.ranges)
        ]
        body = {"_rid": container.properties["_rid"], "PartitionKeyRanges": ranges, "_count": len(ranges)}
        return _json(200, body, {"etag": '"ranges"'})

    def _in_range(self, partition: str, number: str | None) -> bool:
        return number is None or hashlib.sha256(partition.encode()).digest()[0] % self.ranges == int(number)

    # ── queries ──

    def _queried(self, container: Container, asked: Asked) -> Answer:
        query, parameters = _parsed(asked)
        partition, number = _partition(asked), asked.headers.get("x-ms-documentdb-partitionkeyrangeid")
        if partition is None and number is None:
            if not _is(asked, "x-ms-documentdb-query-enablecrosspartition"):
                raise Fault(400, "a query across partitions is not enabled, and no partition key is given")
            if query.order or query.top is not None:
                raise Fault(400, "the gateway can't serve this query across partitions", sub=1004)
        if partition is not None:
            there: list[Document] = [d for p, d in container.everything() if p == partition]
        else:
            there = [d for p, d in container.everything() if self._in_range(p, number)]
        found = [document for document in there if cosmos_sql.selects(query.where, document, parameters)]
        found.sort(key=lambda document: document["_rid"])
        for expression, descending in reversed(query.order):
            found.sort(key=lambda d: cosmos_sql.order_key(expression(d, parameters)), reverse=descending)
        if query.top is not None:
            found = found[: query.top(None, parameters)]
        return _page([query.select(d, parameters) for d in found], container.properties["_rid"], asked)


def _page(answers: Sequence[Any], rid: str, asked: Asked) -> Answer:
    start = int(asked.headers.get("x-ms-continuation") or 0)
    limit = int(asked.headers.get("x-ms-max-item-count") or 100)
    page: list[Any] = []
    size = 0
    for answer in answers[start : start + limit if limit > 0 else None]:
        size += len(json.dumps(answer))
        if page and size > _PAGE:
            break
        if answer is not cosmos_sql.UNDEFINED:
            page.append(answer)
    stop = start + len(page)
    more = {"x-ms-continuation": str(stop)} if stop < len(answers) else {}
    return _json(200, {"_rid": rid, "Documents": page, "_count": len(page)}, more)


def _parsed(asked: Asked) -> tuple[cosmos_sql.Query, Mapping[str, Any]]:
    body = _body(asked)
    try:
        query = _query(body["query"])
        return query, {each["name"]: each["value"] for each in body.get("parameters") or ()}
    except (cosmos_sql.SyntaxFault, KeyError, TypeError) as error:
        raise Fault(400, f"no query: {error}") from error


@functools.lru_cache(maxsize=256)
def _query(text: str) -> cosmos_sql.Query:
    return cosmos_sql.query(text)


def _query_plan(asked: Asked) -> Answer:
    query, _ = _parsed(asked)
    info: dict[str, Any] = {
        "distinctType": "None",
        "top": None,
        "offset": None,
        "limit": None,
        "orderBy": ["Descending" if descending else "Ascending" for _, descending in query.order],
        "orderByExpressions": [],
        "groupByExpressions": [],
        "groupByAliases": [],
        "aggregates": [],
        "groupByAliasToAggregateType": {},
        "rewrittenQuery": query.rewritten,
        "hasSelectValue": False,
        "hasNonStreamingOrderBy": False,
    }
    ranges = [{"min": "", "max": "FF", "isMinInclusive": True, "isMaxInclusive": False}]
    return _json(200, {"partitionedQueryExecutionInfoVersion": 2, "queryInfo": info, "queryRanges": ranges})


# ── operations ──


def _batched(container: Container, asked: Asked) -> Answer:
    if len(asked.body) > LARGEST:
        raise Fault(413, "the batch is larger than 2 MB")
    body = _body(asked)
    if not isinstance(body, list):
        raise Fault(400, "a batch is a list of operations")
    requests = [
        Request(
            kind=str(each.get("operationType")),
            id=str(each.get("id", "")),
            body=each.get("resourceBody"),
            if_match=each.get("ifMatch"),
            if_none_match=each.get("ifNoneMatch"),
        )
        for each in body
    ]
    partition = _partition(asked)
    if partition is None:
        raise Fault(400, "a batch needs a partition key")
    answers = container.batch(partition, requests)
    failed = any(isinstance(answer, Fault) for answer in answers)
    return _json(207 if failed else 200, [_result(answer) for answer in answers])


def _result(answer: Done | Fault) -> dict[str, Any]:
    if isinstance(answer, Fault):
        return {"statusCode": answer.status, "subStatusCode": answer.sub, "requestCharge": 0}
    body = {"statusCode": answer.status, "requestCharge": 0}
    if answer.document is None:
        return body
    return body | {"eTag": answer.document["_etag"], "resourceBody": answer.document}


def _point(container: Container, asked: Asked, request: Request) -> Answer:
    partition = _partition(asked)
    if partition is None:
        raise Fault(400, "the partition key is missing")
    done = container.one(partition, request)
    if done.document is None:
        return Answer(done.status, {})
    return _json(done.status, done.document, {"etag": done.document["_etag"]})


def _partition(asked: Asked) -> str | None:
    text = asked.headers.get("x-ms-documentdb-partitionkey")
    return None if text is None else json.dumps(json.loads(text))


def _is(asked: Asked, header: str) -> bool:
    return asked.headers.get(header, "").lower() == "true"


def _plan(asked: Asked) -> bool:
    return _is(asked, "x-ms-cosmos-is-query-plan-request")


def _if_match(asked: Asked) -> str | None:
    return asked.headers.get("if-match")


def _body(asked: Asked) -> Any:
    try:
        return json.loads(asked.body, parse_int=lambda text: double(int(text)))
    except ValueError as error:
        raise Fault(400, "the body is no JSON") from error


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return Answer(status, {"content-type": "application/json", **(headers or {})}, content)


def _refusal(fault: Fault) -> Answer:
    headers = {"x-ms-substatus": str(fault.sub)} if fault.sub else {}
    if fault.after_ms is not None:
        headers["x-ms-retry-after-ms"] = str(fault.after_ms)
    if fault.status == 304:
        return Answer(304, headers)
    return _json(fault.status, {"code": str(fault.status), "message": fault.why}, headers)


@contextlib.asynccontextmanager
async def serving_cosmos(server: CosmosServer) -> AsyncIterator[str]:
    """Serve on a free port of 127.0.0.1 while the block runs; yields the account's URL."""
    async with listening(server.answer) as url:
        server.url = url + "/"
        yield server.url


async def main() -> None:
    """Serve an account with the container `buspass` of database `db` until the process ends; says URL and key."""
    server = CosmosServer()
    server.add("db", "buspass")
    async with serving_cosmos(server) as url:
        print(f"export COSMOS_KEY={server.key}\ncosmos://loopback/db?endpoint={url}&key=COSMOS_KEY", flush=True)  # noqa: T201
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
