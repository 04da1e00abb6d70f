"""Answers become decisions that fail closed; the same question about the same things is asked once."""

import pytest

from buspass.config.settings import Host
from buspass.errors import Problem
from buspass.model import Principal, Subject
from buspass.policy import document
from buspass.policy.decide import CACHED, Policy, read
from buspass.policy.scan import project, tree
from buspass.ports.policy import PolicyUnavailable


class Recorder:
    """An engine that gives one answer and keeps what it was shown."""

    questions = frozenset({"call", "start"})
    volatile = frozenset({"call"})

    def __init__(self, answer):
        self.answer = answer
        self.shown = []

    async def ask(self, question, document):
        self.shown.append(document)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


READS_TOOL = {"a.rego": 'package buspass.call\ndeny contains "x" if input.call.tool == "y"'}
READS_NOW = {"a.rego": 'package buspass.call\ndeny contains "x" if input.now > "2026"'}


async def test_without_an_engine_or_a_module_policy_adds_nothing():
    assert (await Policy(None).ask("call", {})).deny == ()
    engine = Recorder({"deny": ["x"]})
    assert (await Policy(engine).ask("resume", {})).deny == ()
    assert engine.shown == []


@pytest.mark.parametrize(
    ("question", "answer", "deny", "obligations", "grant"),
    [
        ("call", {"deny": []}, (), {}, None),
        ("call", {"deny": ["b", "a", "b"]}, ("a", "b"), {}, None),
        ("call", {"deny": {"b", "a"}, "helper": 1}, ("a", "b"), {}, None),
        ("call", {"deny": [{"reason": "r", "n": 1}, {"msg": "m"}]}, ("m", "r"), {}, None),
        ("call", {"deny": [], "obligations": {"max_tokens": 5, "log": "none"}}, (), {"max_tokens": 5, "log": "none"}, None),
        ("call", {"deny": [], "obligations": {"targets": ["a"]}}, (), {"targets": ["a"]}, None),
        ("call", {"deny": [], "obligations": {"mask": ["email"], "placeholder": []}}, (), {"mask": ["email"], "placeholder": []}, None),
        ("call", {"deny": [], "obligations": {"approval": True}}, ("obligation not available yet: approval",), {}, None),
        ("call", {"deny": ["a"], "obligations": {"quarantine": 1}}, ("a", "obligation not available yet: quarantine"), {}, None),
        ("start", {"deny": [], "obligations": {"max_tokens": 5}}, ("obligation not available yet: max_tokens",), {}, None),
        ("start", {"deny": [], "grant": {"models": ["m"]}}, (), {}, {"models": ["m"]}),
        ("call", {"deny": [], "grant": {}}, ("grant is no answer to a call",), {}, {}),
    ],
)  # fmt: skip
def test_an_answer_is_read(question, answer, deny, obligations, grant):
    decision = read(question, answer)
    assert (decision.deny, decision.obligations, decision.grant) == (deny, obligations, grant)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"deny": None},
        {"deny": False},
        {"deny": "no"},
        {"deny": {"v0": True}},
        {"deny": [1]},
        {"deny": [""]},
        {"deny": [{"why": "x"}]},
        {"deny": [{"reason": 5}]},
        {"deny": [], "obligations": ["max_tokens"]},
        {"deny": [], "obligations": {"max_tokens": "5"}},
        {"deny": [], "obligations": {"max_tokens": True}},
        {"deny": [], "obligations": {"max_tokens": 0}},
        {"deny": [], "obligations": {"targets": "a"}},
        {"deny": [], "obligations": {"targets": [1]}},
        {"deny": [], "obligations": {"log": "loud"}},
        {"deny": [], "obligations": {"log": []}},
        {"deny": [], "grant": []},
    ],
)
async def test_a_malformed_answer_is_policy_unavailable(answer):
    with pytest.raises(PolicyUnavailable):
        read("call", answer)
    with pytest.raises(Problem, match="policy_unavailable"):
        await Policy(Recorder(answer)).ask("call", {})


async def test_an_engine_that_fails_is_policy_unavailable_and_asked_again():
    engine = Recorder(PolicyUnavailable("secret input"))
    policy = Policy(engine)
    for _ in range(2):
        with pytest.raises(Problem) as caught:
            await policy.ask("call", {"a": 1})
        assert caught.value.code == "policy_unavailable"
        assert "secret" not in caught.value.detail
    assert len(engine.shown) == 2


async def test_only_what_modules_read_is_shown_and_tells_decisions_apart():
    engine = Recorder({"deny": []})
    policy = Policy(engine, READS_TOOL)
    for tool, amount in [("a", 1), ("a", 2), ("b", 1), ("a", 3)]:
        await policy.ask("call", {"call": {"tool": tool, "arguments": {"amount": amount}}, "now": amount})
    assert engine.shown == [{"call": {"tool": "a"}}, {"call": {"tool": "b"}}]


async def test_types_and_questions_tell_decisions_apart():
    engine = Recorder({"deny": []})
    policy = Policy(engine)
    for value in (1, True, "1", None, [1]):
        await policy.ask("call", {"v": value})
    await policy.ask("start", {"v": 1})
    await policy.ask("call", {"v": 1})
    assert len(engine.shown) == 6


async def test_a_question_about_time_is_never_cached():
    engine = Recorder({"deny": []})
    policy = Policy(engine, READS_NOW)
    for _ in range(3):
        await policy.ask("call", {"now": "2026-11-20T09:00:00Z"})
    assert len(engine.shown) == 3
    assert policy.volatile("call")
    assert not policy.volatile("start")
    assert not Policy(None).volatile("call")


async def test_the_cache_is_bounded_and_forgets_the_longest_unused():
    engine = Recorder({"deny": []})
    policy = Policy(engine)
    for number in [*range(CACHED), 0, CACHED, 0, 1]:  # 1 was the longest unused when CACHED came
        await policy.ask("call", {"n": number})
    assert len(engine.shown) == CACHED + 2


async def test_what_is_no_json_is_policy_unavailable():
    with pytest.raises(Problem, match="policy_unavailable"):
        await Policy(Recorder({"deny": []})).ask("call", {"n": float("nan")})


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ({()}, {"a": {"b": {"c": 1, "d": 2}, "l": [{"x": 1}]}, "n": None}),
        (set(), {}),
        ({("a", "b", "c")}, {"a": {"b": {"c": 1}}}),
        ({("a", "b", "c"), ("a", "b")}, {"a": {"b": {"c": 1, "d": 2}}}),
        ({("a", "l", "x")}, {"a": {"l": [{"x": 1}]}}),
        ({("a", "missing"), ("missing", "x")}, {"a": {}}),
        ({("n",), ("n", "x")}, {"n": None}),
    ],
)
def test_a_projection_keeps_what_lies_on_the_paths(paths, expected):
    assert project({"a": {"b": {"c": 1, "d": 2}, "l": [{"x": 1}]}, "n": None}, tree(paths)) == expected


@pytest.mark.parametrize(
    ("source", "history"),
    [
        ("input.call.tool == input.history.x", True),
        ('input.call.tool == "y"', False),
        ("object.get(input, input.call.tool, 1) == 1", True),
        ('input["history"].tools.refund.count > 1', True),
        ("some part in input", True),
    ],
)
def test_a_part_of_the_input_is_built_only_where_an_answer_may_depend_on_it(source, history):
    modules = {"a.rego": f'package buspass.call\ndeny contains "x" if {{ {source} }}'}
    assert Policy(Recorder({"deny": []}), modules).reads("call", "history") is history
    assert Policy(Recorder({"deny": []})).reads("call", "history"), "a policy server is shown all of it"
    assert not Policy(None).reads("call", "history")


HOST = Host(name="aws", url="https://h", cloud="aws", region="eu-central-1", signer="", state="", queue="", blobs="")
WHO = Principal(identity="entra", issuer="https://i", agent="a", claims={"tenant": "t"})
NOW = 1_795_165_200_999


def test_the_document_of_a_start_has_the_manuals_shape_exactly():
    _started()


def _started():
    task = document.task(
        id="t1",
        workflow="w",
        status="open",
        metadata={"case": "7"},
        started_at=NOW - 60_000,
        depth=0,
        principal=WHO,
        subject=Subject(type="customer", id="C-1", proof="token"),
    )
    started = document.start_input(now=NOW, host=HOST, task=task)
    assert started == {
        "now": "2026-11-20T09:00:00Z",
        "host": {"cloud": "aws", "region": "eu-central-1", "name": "aws"},
        "task": {
            "id": "t1",
            "workflow": "w",
            "status": "open",
            "metadata": {"case": "7"},
            "started_at": "2026-11-20T08:59:00Z",
            "depth": 0,
            "principal": {"identity": "entra", "issuer": "https://i", "agent": "a", "claims": {"tenant": "t"}},
            "subject": {"type": "customer", "id": "C-1", "proof": "token"},
        },
    }
    return task, started


def test_the_document_of_a_tool_call_has_the_manuals_shape_exactly():
    task, started = _started()
    call = document.action(
        tool="refund",
        method="POST",
        host="pay.example",
        path="/refunds",
        arguments={"amount": 5},
        thought=True,
        tool_call_id="call_1",
    )
    tools = {
        "get_order": document.tool_history(count=2, running=1, last="succeeded", kept=[({"order": "O-1"}, NOW)]),
        "refund": document.tool_history(count=0, running=0, last=None, kept=[]),
    }
    asked = document.call_input(now=NOW, host=HOST, task=task, call=call, tools=tools, models={"plan": 3})
    assert asked == {
        **started,
        "call": {
            "kind": "tool",
            "tool": "refund",
            "method": "POST",
            "host": "pay.example",
            "path": "/refunds",
            "arguments": {"amount": 5},
            "thought": True,
            "tool_call_id": "call_1",
            "findings": [],
        },
        "history": {
            "tools": {
                "get_order": {
                    "count": 2,
                    "running": 1,
                    "last": "succeeded",
                    "kept": [{"order": "O-1", "at": "2026-11-20T09:00:00Z"}],
                },
                "refund": {"count": 0, "running": 0, "kept": []},
            },
            "models": {"plan": {"count": 3}},
        },
    }


def test_an_inference_and_a_task_without_subject():
    call = document.inference(
        model="plan",
        stream=False,
        tools=["refund"],
        size=120,
        targets=[{"name": "sim/planner-1", "provider": "sim", "model": "planner-1", "region": ""}],
        findings=[{"class": "email", "position": "messages.0", "count": 1}],
    )
    assert call == {
        "kind": "inference",
        "model": "plan",
        "stream": False,
        "tools": ["refund"],
        "bytes": 120,
        "targets": [{"name": "sim/planner-1", "provider": "sim", "model": "planner-1", "region": ""}],
        "findings": [{"class": "email", "position": "messages.0", "count": 1}],
    }
    task = document.task(
        id="t", workflow="w", status="open", metadata={}, started_at=0, depth=0, principal=WHO, subject=None
    )
    assert "subject" not in task
