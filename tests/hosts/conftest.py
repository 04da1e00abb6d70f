"""The hosts' fronts as processes, and what lets their toy application be imported."""

import contextlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from started import FRONTS, Front

if sys.version_info < (3, 13):
    collect_ignore = ["test_functions_front.py"]  # the runtime library of Azure Functions needs 3.13


@pytest.fixture(scope="session")
def fronts():
    """The URL of each host's front by its name, all of them around the same application."""
    started = {name: Front(arguments) for name, arguments in FRONTS.items()}  # all at once: each takes its time
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(front).url for name, front in started.items()}
    assert {name: front.status for name, front in started.items()} == dict.fromkeys(started, 0)


@pytest.fixture(params=list(FRONTS))
def front(request, fronts):
    return fronts[request.param]


@pytest.fixture
def launch():
    """Start a front of one's own: `with launch(arguments) as front`."""
    return Front
