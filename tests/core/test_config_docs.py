"""docs/configuration.md names every key of the schema, its default, and whether it is built."""

import re
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import TypeAdapter

from buspass.config.document import parse
from buspass.config.unavailable import TABLE
from buspass.config.walk import documented_fields

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("` "): cells
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
FIELDS = {re.sub(r"^(providers|tools)\.\*\.(auth\..*)", r"\2", path): field for path, field in documented_fields()}
SIMPLE = {
    path: field
    for path, field in FIELDS.items()
    if isinstance(field.default, str | int | float) and field.default != ""
}


@pytest.mark.parametrize("path", FIELDS)
def test_every_key_has_a_row(path):
    assert path in ROWS, f"docs/configuration.md has no row for `{path}`"


def test_no_row_is_about_a_key_that_is_not_there():
    documented = {path for path, cells in ROWS.items() if len(cells) == 5}
    assert documented == set(FIELDS)


@pytest.mark.parametrize("path", SIMPLE)
def test_a_default_is_the_one_in_force(path):
    field = SIMPLE[path]
    said = re.match(r"`([^`]+)`", ROWS[path][2])
    assert said, f"the row of `{path}` names no default"
    value = parse(f"x: {said[1]}".encode(), "docs").data["x"]
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    assert TypeAdapter(kind).validate_python(value, strict=True) == field.default


@pytest.mark.parametrize("row", TABLE, ids=[row.path for row in TABLE])
def test_what_is_not_built_is_said_to_be_so(row):
    path = re.sub(r"^(providers|tools)\.\*\.(auth\..*)", r"\2", row.path)
    path = re.sub(r"^hosts\.\*\.(signer|state|queue|blobs)", r"\1", path).removesuffix(".*")
    text = ROWS[path][3]
    assert ("not yet" in text) if row.built else text.startswith("**not yet**")


def test_what_is_built_is_not_said_to_be_missing():
    missing = {re.sub(r"^(providers|tools)\.\*\.(auth\..*)", r"\2", row.path) for row in TABLE if not row.built}
    assert {path for path, cells in ROWS.items() if len(cells) == 5 and "**not yet**" in cells[3]} == missing
