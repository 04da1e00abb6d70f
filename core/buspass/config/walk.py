"""The schema as something to walk: which keys stand where. For error messages and for the test of the documentation.

Refuses to know what a key means.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, TypeAliasType, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from buspass.config.document import Path
from buspass.config.schema import Configuration


def keys_at(path: Path) -> tuple[str, ...]:
    """The keys that the mapping at `path` may have; none where any name goes."""
    at: Any = Configuration
    for part in path:
        at = _step(_bare(at), part)
    bare = _bare(at)
    return tuple(bare.model_fields) if _is_model(bare) else ()


def documented_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the schema as `workflows.*.budget.cost`, `*` for a name or an index, with what it takes."""
    yield from _fields(Configuration, "")


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path, field
        inner, stars = _bare(field.annotation), ""
        while get_origin(inner) in {list, dict}:
            inner, stars = _bare(get_args(inner)[-1]), stars + ".*"
        if _is_model(inner):
            yield from _fields(inner, f"{path}{stars}.")


def _step(bare: Any, part: str | int) -> Any:
    if _is_model(bare):
        field = bare.model_fields.get(part)
        return field.annotation if field else None
    return get_args(bare)[-1] if get_origin(bare) in {list, dict} else None


def _bare(annotation: Any) -> Any:
    """The type without Annotated, aliases and `| None`."""
    while True:
        if isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in {Union, types.UnionType}:
            annotation = next(each for each in get_args(annotation) if each is not type(None))
        else:
            return annotation


def _is_model(bare: Any) -> bool:
    return isinstance(bare, type) and issubclass(bare, BaseModel)
