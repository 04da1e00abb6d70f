"""The three hosts as processes, for the tests that need them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "contract"))  # what starts their servers

if sys.version_info < (3, 13):
    # the runtime library of Azure Functions needs 3.13
    collect_ignore = ["test_bundles.py", "test_demo.py", "test_three_hosts.py", "test_refund_pressure.py"]


@pytest.fixture(scope="session")
def domain(tmp_path_factory):
    """One trust domain for the whole session: its hosts, one store, issuer, provider and services."""
    from hosts import Domain  # noqa: PLC0415 - found by the line above

    with Domain(tmp_path_factory.mktemp("domain")) as running:
        yield running


def pytest_terminal_summary(terminalreporter):
    """What became of the calls whose hosts were killed, by station and store."""
    table = {}
    for report in terminalreporter.getreports("passed"):
        for place, store, came, again in (value for name, value in report.user_properties if name == "killed"):
            calls, ways, repeated = table.setdefault((place, store), ([], {}, {}))
            calls.append(report.nodeid)
            ways[came] = None
            repeated |= {again: None} if again else {}
    if table:
        terminalreporter.section("kill -9 at each station")
        terminalreporter.write_line(f"{'killed at':32} {'store':7} {'calls':>5}  {'then':33} repeated by its key")
    for (place, store), (calls, ways, repeated) in table.items():
        line = f"{place:32} {store:7} {len(calls):5}  {' or '.join(ways):33} {' or '.join(repeated)}"
        terminalreporter.write_line(line)
