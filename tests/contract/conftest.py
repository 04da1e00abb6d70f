"""Lets the suites import what starts their servers, and starts the one that stands for AWS: once a module, where asked for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def ministack(tmp_path_factory):
    from aws_servers import Ministack  # noqa: PLC0415 - found by the line above

    with Ministack(tmp_path_factory.mktemp("aws")) as running:
        yield running
