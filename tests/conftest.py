"""What holds for every test: where coverage is measured, that an interrupt is one, what need not be imported, what comes
first, and that a busy machine is no failure of what is tried."""

import os
import re
import signal
from pathlib import Path

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A worker is measured by now. What it starts itself (hosts, agents, gateways) would pay for each line with time of its
# own, and time-outs with it, for lines that tests in the process reach anyway.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

# A shell starts what it runs in the background with interrupts ignored, and all that we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SLOW = re.compile(r"^pytestmark = pytest\.mark\.verify\b", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """Leave a module that is marked as a whole where its mark is not asked for: SDKs and clouds' tools load slowly."""
    if config.getoption("markexpr") == "not verify" and collection_path.suffix == ".py":
        return bool(SLOW.search(collection_path.read_text("utf-8"))) or None
    return None


TESTS = Path(__file__).parent
FIRST = ("e2e", "simulation", "hosts", "infra", "contract", "core")


def pytest_collection_modifyitems(items):
    """Begin with the folders whose files take long: at the end one of them would keep a worker for half a minute while the
    others have nothing left. (Of itself pytest-xdist begins with the files of most tests, which are quick ones.)"""
    items.sort(key=lambda item: FIRST.index(item.path.relative_to(TESTS).parts[0]) if item.path.parent != TESTS else -1)
