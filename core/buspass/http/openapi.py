"""`/openapi.json`, made of the table of routes: OpenAPI 3.1.

Owns the schemas of what is sent and answered. Refuses to know handlers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from buspass.errors import CODES
from buspass.http.queries import query_of
from buspass.model import ACCOUNTS


class Row(Protocol):
    """What a route tells of itself."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def section(self) -> str: ...
    @property
    def who(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def sends(self) -> str: ...
    @property
    def answers(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def handler(self) -> str: ...


STRING: Final = {"type": "string"}
WHOLE: Final = {"type": "integer"}
NUMBER: Final = {"type": "number"}
MOMENT: Final = {"type": "string", "format": "date-time"}


def _object(
    properties: Mapping[str, Any], *, required: Iterable[str] | None = None, closed: bool = False
) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": sorted(properties if required is None else required),
        **({"additionalProperties": False} if closed else {}),
    }


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": dict(items)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


ACCOUNT: Final = _object({name: NUMBER if name == "cost" else WHOLE for name in ACCOUNTS}, required=())
BUDGET: Final = {name: _ref("Accounts") for name in ("limits", "spent", "held", "allocated", "available")}
SOMETIME: Final = {"type": ["string", "null"], "format": "date-time"}
KEY: Final = {
    "id": STRING,
    "name": STRING,
    "workflow": STRING,
    "pool": STRING,
    "models": {"type": ["array", "null"], "items": STRING},
    "budget": {"type": "object"},
    "status": {"enum": ["active", "stopped", "expired", "revoked"]},
    "created_at": MOMENT,
    "created_by": STRING,
    **dict.fromkeys(("expires_at", "rotated_at", "revoked_at"), SOMETIME),
    "killed_task": {"type": ["string", "null"]},
}
STOPPED: Final = {"workflow": STRING, "agent": STRING, "tool": STRING, "model": STRING, "all": {"const": True}}
STOP: Final = {
    "id": STRING,
    "reason": STRING,
    "by": STRING,
    "at": MOMENT,
    "host": STRING,
    "tasks": WHOLE,
    "complete": {"type": "boolean"},
    **dict.fromkeys(("done_at", "lifted_at"), SOMETIME),
}
DRAIN: Final = {"in_flight": WHOLE, "cut": WHOLE, "drained_by": MOMENT, "unreached": {"type": "array", "items": STRING}}
SCHEMAS: Final[Mapping[str, Any]] = {
    "Any": {},
    "Accounts": {
        **ACCOUNT,
        "description": "By account; `cost` in USD. An unlimited one is absent from limits and available.",
    },
    "Start": _object(
        {
            "workflow": STRING,
            "on_behalf_of": {
                "oneOf": [_object({"token": STRING}, closed=True), _object({"type": STRING, "id": STRING}, closed=True)]
            },
            "metadata": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
            "budget": _object({**dict.fromkeys(ACCOUNTS, NUMBER), "wall": NUMBER}, required=(), closed=True),
        },
        required=("workflow",),
        closed=True,
    ),
    "Child": _object(
        {
            "workflow": STRING,
            "models": _list(STRING),
            "tools": _list(STRING),
            "metadata": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
            "budget": _object({**dict.fromkeys(ACCOUNTS, NUMBER), "wall": NUMBER}, required=(), closed=True),
            "host": STRING,
            "peer": STRING,
        },
        required=(),
        closed=True,
    ),
    "Task": _object(
        {
            "id": STRING,
            "workflow": STRING,
            "status": {"enum": ["open", "suspended", "completed", "killed", "expired"]},
            "principal": _object({"identity": STRING, "issuer": STRING, "agent": STRING, "claims": {"type": "object"}}),
            "subject": {"oneOf": [_object({"type": STRING, "id": STRING, "proof": STRING}), {"type": "null"}]},
            "metadata": {"type": "object"},
            "grant": _object({"models": _list(STRING), "tools": _list(STRING)}),
            "budget": _object(BUDGET),
            "parent": {"type": ["string", "null"]},
            "children": _list(STRING),
            "fence": WHOLE,
            "host": STRING,
            "revision": STRING,
            "created_at": MOMENT,
            "expires_at": MOMENT,
        }
    ),
    "TaskPage": _object({"data": _list(_ref("Task")), "next_cursor": {"type": ["string", "null"]}}),
    "Started": _object({"task": _ref("Task"), "token": STRING, "expires_in": WHOLE, "base_url": STRING}),
    "Killed": {"allOf": [_ref("Task"), _object({"in_flight": WHOLE, "drained_by": MOMENT})]},
    "Reason": _object({"reason": STRING}, required=(), closed=True),
    "Saved": _object({"etag": STRING}),
    "Thought": _object({"text": STRING, "parent": STRING}, required=("text",), closed=True),
    "Id": _object({"id": STRING}),
    "Trace": _object(
        {"task": _ref("Task"), "records": _list({"type": "object"}), "next_cursor": {"type": ["string", "null"]}}
    ),
    "Verdict": _object(
        {"ok": {"type": "boolean"}, "records": WHOLE, "sealed": WHOLE, "seals": WHOLE, "problems": _list(STRING)}
    ),
    "Form": {
        "type": "object",
        "description": "RFC 8693: grant_type, subject_token (task token), actor_token (OIDC). "
        "RFC 7523: grant_type, assertion (a peer's grant).",
    },
    "Token": _object({"access_token": STRING, "issued_token_type": STRING, "token_type": STRING, "expires_in": WHOLE}),
    "Order": _object({"order": STRING}, closed=True),
    "Stated": _object({"statement": STRING}),
    "Statement": _object({"statement": STRING}, closed=True),
    "Heard": _object({"heard": {"const": True}}),
    "Tools": _object({"data": _list(_object({"type": STRING, "function": {"type": "object"}, "url": STRING}))}),
    "ToolCall": _object(
        {"arguments": {"type": "object"}, "tool_call_id": STRING}, required=("arguments",), closed=True
    ),
    "ToolResult": _object({"result": {}, "action": STRING}),
    "Action": _object(
        {"id": STRING, "task": STRING, "tool": STRING, "status": STRING, "created_at": MOMENT},
    ),
    "Actions": _object({"data": _list(_ref("Action")), "next_cursor": {"type": "null"}}),
    "NewKey": _object(
        {
            "name": STRING,
            "workflow": STRING,
            "pool": STRING,
            "models": _list(STRING),
            "expires_in": WHOLE,
            "budget": _object({**dict.fromkeys(ACCOUNTS, NUMBER), "wall": NUMBER}, required=(), closed=True),
        },
        required=("name", "workflow"),
        closed=True,
    ),
    "Rotation": _object({"grace": WHOLE}, required=(), closed=True),
    "Key": _object(KEY, required=("id", "name", "workflow", "pool", "status", "created_at")),
    "MadeKey": _object({"key": STRING, **KEY}, required=("key", "id", "name", "workflow", "pool", "status")),
    "KeyPage": _object({"data": _list(_ref("Key")), "next_cursor": {"type": ["string", "null"]}}),
    "NewStop": {
        **_object({**STOPPED, "reason": STRING}, required=("reason",), closed=True),
        "description": "Exactly one of workflow, agent, tool, model, all.",
    },
    "Stop": _object({**STOPPED, **STOP, "lifted_by": STRING, "lifted_reason": STRING}, required=STOP),
    "Stopped": _object({**STOPPED, **STOP, **DRAIN}, required=(*STOP, *DRAIN)),
    "StopPage": _object({"data": _list(_ref("Stop")), "next_cursor": {"type": "null"}}),
    "Report": _object(
        {
            "from": {"type": "string", "format": "date"},
            "to": {"type": "string", "format": "date"},
            "as_of": MOMENT,
            "group_by": _list(STRING),
            "data": _list({"type": "object"}),
            "total": {"type": "object"},
        },
        required=("from", "to", "as_of", "group_by", "data"),
    ),
    "Breaker": _object(
        {
            "breaker": {"enum": ["model", "tool", "task"]},
            "name": STRING,
            "task": STRING,
            "state": {"enum": ["closed", "suspect", "open", "half_open", "recovering"]},
            "since": MOMENT,
            "retry_at": MOMENT,
            "failures": WHOLE,
            "opened": WHOLE,
            "upstream": {"type": "object"},
        },
        required=("breaker", "name", "state", "failures", "opened"),
    ),
    "BreakerPage": _object({"data": _list(_ref("Breaker")), "next_cursor": {"type": "null"}}),
    "Health": _object({"status": STRING}),
    "Problem": {
        **_object(
            {
                "type": STRING,
                "title": STRING,
                "status": WHOLE,
                "detail": STRING,
                "code": {"enum": sorted(CODES)},
                "retryable": {"type": "boolean"},
            }
        ),
        "description": "RFC 9457; on OpenAI's routes the same members under `error`.",
    },
}


def document(routes: Iterable[Row], issuer: str) -> dict[str, Any]:
    """Give the description of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    for row in routes:
        paths.setdefault(row.path.replace(":path", ""), {})[row.method.lower()] = _operation(row)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Buspass", "version": "1", "description": "The cage that AI agents live in."},
        "servers": [{"url": issuer}],
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(row: Row) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": row.handler,
        "tags": [row.section],
        "summary": row.summary,
        "description": f"For: {row.who}.",
        "responses": {
            str(row.status): {"description": row.summary, "content": _json(row.answers)},
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": {"schema": _ref("Problem")}},
            },
        },
    }
    if row.who not in {"anyone", "peer"}:
        operation["security"] = [{"bearer": []}]
    if names := re.findall(r"\{(\w+)(?::path)?\}", row.path):
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": STRING} for name in names]
    if query := query_of(row.handler):
        asked = [{"name": name, "in": "query", "required": False, "schema": STRING} for name in query]
        operation["parameters"] = [*operation.get("parameters", ()), *asked]
    if row.sends == "Form":
        content = {"application/x-www-form-urlencoded": {"schema": _ref("Form")}}
        operation["requestBody"] = {"required": True, "content": content}
    elif row.sends:
        operation["requestBody"] = {"required": row.sends not in {"Reason", "Rotation"}, "content": _json(row.sends)}
    return operation


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}
