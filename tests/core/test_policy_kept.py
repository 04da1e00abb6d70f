"""A decision that is found again without building policy's input is the one that building it would have given."""

from itertools import product
from types import SimpleNamespace

import pytest

from buspass.calls.inference import Inference
from buspass.mediation.inspect import Finding
from buspass.policy import scan
from buspass.policy.decide import CACHED, Decision, Policy
from buspass.policy.embedded import EmbeddedEngine

YES, NO = Decision(), Decision(deny=("no",))
TASK = "t_1"


def reading(*paths):
    """Modules whose answers to calls depend on these."""
    rules = "".join(f'deny contains "{path}" if {path} == "x"\n' for path in paths)
    return {"a.rego": f"package buspass.call\n\n{rules}"}


def policy_of(modules):
    return Policy(EmbeddedEngine(modules), modules)


def test_it_is_found_for_the_same_task_and_the_same_call_alone():
    policy, facts, others = policy_of(reading("input.call.model")), object(), object()
    policy.keep(TASK, facts, ("m", 1), NO)
    assert policy.kept(TASK, facts, ("m", 1)) is NO
    assert policy.kept(TASK, facts, ("m", 2)) is None
    assert policy.kept(TASK, others, ("m", 1)) is None, "what is shown of the task was read anew"
    assert policy.kept("t_2", facts, ("m", 1)) is None
    policy.keep(TASK, facts, None, YES)
    assert policy.kept(TASK, facts, None) is None


@pytest.mark.parametrize(
    "path", ["input.now", "input.history.models", "input.task.status", "input.task", "input.history.tools.pay.count", "input"]
)  # fmt: skip
def test_nothing_is_kept_where_the_time_or_the_history_is_read(path):
    policy, facts = policy_of(reading("input.call.model", path)), object()
    policy.keep(TASK, facts, ("m", 1), YES)
    assert policy.kept(TASK, facts, ("m", 1)) is None


def test_nothing_is_kept_of_an_engine_whose_modules_are_not_known():
    policy, facts = Policy(EmbeddedEngine(reading("input.call.model"))), object()
    policy.keep(TASK, facts, ("m", 1), YES)
    assert policy.kept(TASK, facts, ("m", 1)) is None


def test_what_is_kept_is_bounded_and_the_oldest_goes():
    policy, facts = policy_of(reading("input.call.model")), object()
    for number in range(CACHED + 1):
        policy.keep(TASK, facts, number, NO)
    assert policy.kept(TASK, facts, 0) is None
    assert policy.kept(TASK, facts, 1) is policy.kept(TASK, facts, CACHED) is NO


@pytest.mark.parametrize(
    ("path", "sized"),
    [("input.call.bytes", True), ("input.call", True), ("input.call.model", False), ("input.task.id", False), ("input", True)],
)  # fmt: skip
def test_a_calls_size_tells_only_where_it_is_read(path, sized):
    assert policy_of(reading(path)).sized is sized


class Lane:
    """The one thing that is asked of a target's lane, which is like no other, as the true ones are."""

    def __init__(self, described):
        self.described = described


LANES = [
    Lane({"name": name, "provider": "p", "model": name, "region": region})
    for name, region in (("p/a", "fra1"), ("p/b", "fra1"), ("p/a", "iad1"))
]
HOST = SimpleNamespace(name="h", cloud="onprem", region="r")
VIEW = SimpleNamespace(
    head={"status": "open"},
    task=SimpleNamespace(
        id=TASK,
        workflow="w",
        metadata={},
        created_at=0,
        level=0,
        principal=SimpleNamespace(identity="i", issuer="s", agent="a", claims={}),
        subject=None,
    ),
)
CALLS = [
    *product(
        ("m", "n"), (True, False), ((), ("look",), ("look", "pay")), (10, 70_000), ((0,), (1,), (2,), (0, 1), (1, 0))
    )
]
FOUND = (Finding(class_="email", count=1, position="messages"),)
PATHS = ["kind", "model", "stream", "tools", "bytes", "targets", "findings"]


def asking(policy, name, stream, tools, size, lanes):
    house = SimpleNamespace(policy=policy, clock=SimpleNamespace(now=lambda: 0), host=HOST)
    call = Inference.__new__(Inference)
    call.name, call._house, call._lanes = name, house, tuple([LANES[lane] for lane in lanes])
    call.ask, call._incoming = SimpleNamespace(stream=stream, tools=tools), SimpleNamespace(body=bytes(size))
    return call


@pytest.mark.parametrize("path", PATHS)
def test_calls_that_are_alike_are_alike_in_all_that_modules_read(path):
    modules = reading(f"input.call.{path}")
    policy, tree = policy_of(modules), scan.tree(scan.reads(modules, "call"))
    alike = {}
    for drawn in CALLS:
        call = asking(policy, *drawn)
        shown = scan.project(call.question(VIEW, ()), tree)
        assert alike.setdefault(call.alike(()), shown) == shown, drawn
    assert len(alike) == len(CALLS) / (1 if path == "bytes" else 2), "only sizes that nobody reads are as good as one"


def test_a_call_in_which_something_was_found_is_asked_for_each_time():
    assert asking(policy_of(reading("input.call.model")), *CALLS[0]).alike(FOUND) is None
