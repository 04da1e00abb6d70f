"""Whether a tool is whole: its JSON Schemas, the arguments in its path, the hosts that serve it.

Refuses to know routes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import jsonschema_rs

from buspass.config.compose import NOTHING, plain
from buspass.config.document import Path, Problems
from buspass.config.scalars import arguments_in
from buspass.config.schema.tools import Tool

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def check_tool(name: str, tool: Tool, hosts: Collection[str], problems: Problems) -> None:
    """Note what is wrong with one tool."""
    at: Path = ("tools", name)
    for index, host in enumerate(tool.hosts or ()):
        if host not in hosts:
            problems.add((*at, "hosts", index), f"no host {host!r}; allowed: {', '.join(hosts)}")
    if tool.input is not None:
        _check_schema((*at, "input"), tool.input, problems)
        if tool.input.get("type") != "object":
            problems.add((*at, "input"), "arguments are an object; allowed: a schema with type: object")
    if tool.output is not None:
        _check_schema((*at, "output"), tool.output, problems)
    if tool.http is not None:
        _check_path(at, tool.http.url, tool.input or NOTHING, problems)


def arguments_of(tool: Tool) -> Collection[str]:
    """The arguments that a tool's input schema names."""
    return _members(tool.input or NOTHING, "properties")


def _members(schema: Mapping[str, Any], key: str) -> list[str]:
    found = schema.get(key)
    return [each for each in found if isinstance(each, str)] if isinstance(found, dict | list) else []


def _check_path(at: Path, url: str, schema: Mapping[str, Any], problems: Problems) -> None:
    named, required = _members(schema, "properties"), _members(schema, "required")
    for argument in arguments_in(url):
        if argument not in named:
            what = f"{{{argument}}} is no property of input; allowed: {', '.join(named) or 'none is defined'}"
            problems.add((*at, "http", "url"), what)
        elif argument not in required:
            problems.add((*at, "http", "url"), f"{{{argument}}} must be in input's required:")


def _check_schema(at: Path, schema: Mapping[str, Any], problems: Problems) -> None:
    if schema.get("$schema", DIALECT) != DIALECT:
        problems.add((*at, "$schema"), f"not the dialect in use; allowed: {DIALECT}")
        return
    try:
        jsonschema_rs.Draft202012Validator(plain(schema), offline=True)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        what = str(error).splitlines()[0]
        if "Retrieval is disabled" in what:
            what = "a $ref leads out of it; allowed: #/…"
        problems.add((*at, *getattr(error, "instance_path", [])), f"not a JSON Schema: {what}")
