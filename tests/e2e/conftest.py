"""The three hosts as processes, for the tests that need them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if sys.version_info < (3, 13):
    # the runtime library of Azure Functions needs 3.13
    collect_ignore = ["test_demo.py", "test_three_hosts.py", "test_refund_pressure.py"]


@pytest.fixture(scope="session")
def domain(tmp_path_factory):
    """One trust domain for the whole session: its hosts, one store, issuer, provider and services."""
    from hosts import Domain  # noqa: PLC0415 - found by the line above

    with Domain(tmp_path_factory.mktemp("domain")) as running:
        yield running
