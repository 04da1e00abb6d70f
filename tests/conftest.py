"""What holds for every test: coverage is measured in the processes that run tests, not in those that tests start."""

import os

# A worker is measured by now. What it starts itself (hosts, agents, gateways) would pay for each line with time of its
# own, and time-outs with it, for lines that tests in the process reach anyway.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
