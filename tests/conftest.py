"""What holds for every test: where coverage is measured, and that an interrupt is an interrupt."""

import os
import signal

# A worker is measured by now. What it starts itself (hosts, agents, gateways) would pay for each line with time of its
# own, and time-outs with it, for lines that tests in the process reach anyway.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)

# A shell starts what it runs in the background with interrupts ignored, and all that we start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
