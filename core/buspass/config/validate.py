"""A document against the schema: pydantic's findings told in the words of the file, all at once.

Refuses to know what names refer to (`config.references`) and what is built (`config.unavailable`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from buspass.config.document import Document, Path, Problems
from buspass.config.references import near
from buspass.config.schema import Configuration
from buspass.config.walk import keys_at

_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "is required",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "string_too_short": "must not be empty",
    "string_too_long": "is too long; allowed: at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "has too many entries; allowed: at most {max_length}",
    "greater_than_equal": "is too small; allowed: {ge} or more",
    "less_than_equal": "is too large; allowed: at most {le}",
    "less_than": "is too large; allowed: less than {lt}",
    "literal_error": "{input} is not known; allowed: {expected}",
}


def validate(document: Document) -> Configuration:
    """Read the document by the schema. Raises ConfigError with a line for every fault."""
    problems = Problems(document)
    for path in _empty(document.data, ()):
        problems.add(path, "is empty; give it a value or remove the key")
    try:
        configuration = Configuration.model_validate(document.data)
    except ValidationError as error:
        for fault in error.errors():
            _tell(problems, fault)
        configuration = None
    problems.raise_any()
    assert configuration is not None
    return configuration


def _tell(problems: Problems, fault: Any) -> None:
    path: Path = tuple(fault["loc"])
    if fault["type"] == "extra_forbidden":
        problems.add(path, _unknown(path), key=True)
        return
    if path and path[-1] == "[key]":
        problems.add(path[:-1], _sentence(fault), key=True)
        return
    if fault["input"] is None and fault["type"] != "missing":
        return  # said already: it is empty
    problems.add(path, _sentence(fault))


def _unknown(path: Path) -> str:
    allowed = keys_at(path[:-1])
    return f"unknown key{near(str(path[-1]), allowed)}; allowed: {', '.join(allowed)}"


def _sentence(fault: Any) -> str:
    context = dict(fault.get("ctx", {}))
    if fault["type"] == "value_error":
        return str(context["error"])
    if fault["type"] == "literal_error":
        context["expected"] = context["expected"].replace("'", "").replace(" or ", ", ")
        value = fault["input"]
        context["input"] = repr(value) if isinstance(value, str) else "this value"
    sentence = _SENTENCES.get(fault["type"])
    return sentence.format(**context) if sentence else str(fault["msg"])


def _empty(data: Any, path: Path) -> Iterator[Path]:
    """Keys without a value. A null means something only inside a JSON Schema."""
    if len(path) == 3 and path[0] == "tools" and path[2] in {"input", "output"} and data is not None:
        return
    if data is None:
        yield path
    elif isinstance(data, dict):
        for name, value in data.items():
            yield from _empty(value, (*path, name))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _empty(value, (*path, index))
