"""The table's definition: valid by AWS's own model of its API, and with an index for every one that core asks for."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from botocore.session import Session
from botocore.validate import ParamValidator

from buspass_aws.dynamodb_table import INDEXES, definition

CORE = Path(__file__).parents[2] / "core" / "buspass"


def test_it_is_what_create_table_takes():
    shape = Session().get_service_model("dynamodb").operation_model("CreateTable").input_shape
    assert ParamValidator().validate(definition("buspass"), shape).generate_report() == ""


def test_it_declares_the_attributes_of_its_keys_and_no_other():
    table = definition("buspass")
    keys = [table["KeySchema"], *(index["KeySchema"] for index in table["GlobalSecondaryIndexes"])]
    used = sorted({part["AttributeName"] for key in keys for part in key})
    assert sorted(row["AttributeName"] for row in table["AttributeDefinitions"]) == used


def test_the_command_prints_it():
    command = [sys.executable, "-m", "buspass_aws.dynamodb_table"]
    printed = subprocess.run([*command, "buspass"], capture_output=True, text=True, check=True)
    assert json.loads(printed.stdout) == definition("buspass")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2


def test_every_index_that_core_enters_items_in_is_there():
    """Core names an index by a constant, in `index={NAME: …}`, wherever that constant is defined."""
    trees = [ast.parse(path.read_text("utf-8")) for path in CORE.rglob("*.py") if "testing" not in path.parts]
    constants = {
        node.target.id: node.value.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant) and "INDEX" in node.target.id
    }
    entered = [
        key.value if isinstance(key, ast.Constant) else constants[key.id]
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "index" and isinstance(node.value, ast.Dict)
        for key in node.value.keys
    ]
    assert "due" in entered  # or nothing was looked at
    assert {*entered, *constants.values()} <= set(INDEXES)
