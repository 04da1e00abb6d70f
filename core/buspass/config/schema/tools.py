"""The part of the schema about tools: what they are called over, what they take and give, what is kept of it.

Refuses to judge JSON Schemas: `config.references` does, which knows where they stand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from buspass.config.schema.base import (
    FunctionName,
    HttpUrl,
    Name,
    Pointer,
    PositiveDuration,
    Rate,
    Secret,
    Shape,
    Text,
    ToolUrl,
)
from buspass.config.schema.inference import Auth

KEPT = 16
"""Facts that a tool may keep."""


class Http(Shape):
    """An HTTP call."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    url: ToolUrl


class Approval(Shape):
    """When a person has to agree, and for how long the question stands."""

    when: Text
    expires: PositiveDuration


class Polling(Shape):
    """For a tool that is asked again and again: no loop, but not more often than this."""

    min_interval: PositiveDuration


class Tool(Shape):
    """A tool, reached over exactly one of http, openapi, mcp, sql."""

    description: Annotated[str, Field(max_length=4096)] = ""
    hosts: Annotated[list[Name], Field(min_length=1)] | None = None
    http: Http | None = None
    openapi: Text | None = None
    operations: Annotated[list[Text], Field(min_length=1)] | None = None
    mcp: HttpUrl | None = None
    tools: Annotated[list[Text], Field(min_length=1)] | None = None
    sql: Text | None = None
    database: Secret | None = None
    input: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    timeout: PositiveDuration = 10.0
    max_bytes: Annotated[int, Field(ge=1, le=20_000_000)] = 1_000_000
    auth: Auth | None = None
    keep: dict[FunctionName, Pointer] = Field(default_factory=dict, max_length=KEPT)
    statuses: list[Annotated[int, Field(ge=400, le=499)]] = Field(default_factory=list)
    idempotent: bool | None = None
    mode: Literal["direct", "queued"] = "direct"
    rate: Rate | None = None
    approval: Approval | None = None
    polling: Polling | None = None

    @model_validator(mode="after")
    def _one_connector(self) -> Tool:
        kinds = [kind for kind in ("http", "openapi", "mcp", "sql") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError("exactly one of these is needed; allowed: http, openapi, mcp, sql")
        if self.operations is not None and self.openapi is None:
            raise ValueError("operations: belongs to openapi:")
        if self.tools is not None and self.mcp is None:
            raise ValueError("tools: belongs to mcp:")
        if (self.database is None) != (self.sql is None):
            raise ValueError("sql: and database: belong together")
        return self
