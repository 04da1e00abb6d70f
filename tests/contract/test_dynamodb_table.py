"""The table's definition: valid by AWS's own model of its API, and with an index for each of the port's."""

import json
import subprocess
import sys

from botocore.session import Session
from botocore.validate import ParamValidator

from buspass.ports.state import INDEXES
from buspass_aws.dynamodb_table import definition


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


def test_it_has_each_of_the_ports_indexes():
    assert [index["IndexName"] for index in definition("buspass")["GlobalSecondaryIndexes"]] == [*INDEXES]
