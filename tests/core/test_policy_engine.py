"""The embedded engine answers as its modules say, from every thread, and fails closed on everything else."""

import asyncio
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from buspass.policy import decide
from buspass.policy.decide import Policy
from buspass.policy.embedded import EmbeddedEngine
from buspass.policy.lint import lint
from buspass.policy.scan import reads
from buspass.ports.policy import PolicyUnavailable

DATA = Path(__file__).parents[1] / "data" / "policy"
MODULES = {path.name: path.read_text() for path in sorted(DATA.glob("*.rego"))}
VECTORS = yaml.safe_load((DATA / "vectors.yaml").read_text())


def asked(engine, document, question="call"):
    return asyncio.run(engine.ask(question, document))


def module(rules):
    return {"a.rego": f"package buspass.call\n{rules}\n"}


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["name"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole input", "what is read"])
async def test_decision_vectors(row, whole):
    policy = Policy(EmbeddedEngine(MODULES), None if whole else MODULES)
    decision = await policy.ask("call", row["input"])
    assert list(decision.deny) == row.get("deny", [])
    assert decision.obligations == row.get("obligations", {})


def test_the_vectors_modules_pass_the_lint():
    assert lint(MODULES) == []


def test_threads_never_see_each_others_input():
    engine = EmbeddedEngine(module('deny contains input.who if input.who != "nobody"'))

    def ask(number):
        return asked(engine, {"who": f"agent-{number}"})["deny"] == [f"agent-{number}"]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(800)))


@pytest.mark.parametrize(
    "rules",
    [
        "x := 1",
        "deny := true",
        'deny := "no"',
        'deny[reason] { reason := "v0" }',
        'deny contains "x" if { 1 / input.zero == 1 }',
        'deny contains "x" if { to_number(input.word) > 1 }',
        'deny contains "x" if { json.unmarshal(input.word) == 1 }',
        'deny contains "x" if { unbound }',
        'deny contains "x" if { no.such(1) }',
        'deny contains "x" if { f(5) == 1 }\nf(a) := 1 if { a > 0 }\nf(a) := 2 if { a > 1 }',
        'deny contains "x" if { y == 1 }\ny := 1\ny := 2',
        'deny contains "x" if { input.zero == 0',
    ],
)
def test_an_undefined_malformed_or_failing_answer_is_no_permission(rules):
    engine = EmbeddedEngine(module(rules))
    for _ in range(2):  # the second time too: nothing of a failed interpreter is used again
        with pytest.raises(PolicyUnavailable):
            asked(engine, {"zero": 0, "word": "abc"})


def test_a_failure_leaves_the_next_question_alone():
    engine = EmbeddedEngine(module('deny contains "x" if { 10 / input.n == 5 }'))
    with pytest.raises(PolicyUnavailable):
        asked(engine, {"n": 0})
    assert not hasattr(engine._thread, "compiled")  # what failed is thrown away
    assert asked(engine, {"n": 2})["deny"] == ["x"]


@pytest.mark.parametrize("value", [2**53, -(2**70), 1e21, float("nan"), float("inf"), object(), "\ud800"])
def test_values_that_the_engine_would_change_are_refused(value):
    engine = EmbeddedEngine(module('deny contains "x" if { input.v > 5 }'))
    with pytest.raises(PolicyUnavailable):
        asked(engine, {"v": value})


@pytest.mark.parametrize("text", ["C-1\0evil", 'a"b', "a\\nb", "\n", "\\", "\x1f"])
def test_a_policy_that_looks_inside_strings_never_sees_one_with_escapes(text):
    engine = EmbeddedEngine(module('deny contains "long" if count(input.v) > 3'))
    assert asked(engine, {"v": "abcd é"})["deny"] == ["long"]
    for document in ({"v": text}, {"v": {text: 1}}, {"v": [text]}):
        with pytest.raises(PolicyUnavailable):
            asked(engine, document)


@pytest.mark.parametrize("text", ["C-1\0evil", 'a"b', "a\\nb", "\n", "\\u0041", "é😀", "\u2028", "</>", "{{x}}"])
def test_every_other_policy_sees_strings_exactly(text):
    engine = EmbeddedEngine(module("deny contains input.v"))
    assert asked(engine, {"v": text})["deny"] == [text]


def test_a_reason_made_of_something_missing_is_no_reason_so_the_lint_refuses_it():
    rules = module('deny contains r if { r := sprintf("%v is too much", [input.missing]) }')
    assert asked(EmbeddedEngine(rules), {"amount": 5})["deny"] == []
    assert "denial disappear" in lint(rules)[0]


def test_a_question_without_a_module_is_not_answered():
    with pytest.raises(PolicyUnavailable):
        asked(EmbeddedEngine(MODULES), {}, "start")


@pytest.mark.parametrize(
    ("rules", "volatile"),
    [
        ("input.call.tool", False),
        ("input.task.id", False),
        ("input.task.status", True),
        ('input["task"]["status"]', True),
        ("input.task", True),
        ("input.history.tools.x.count", True),
        ("input.now", True),
        ("input", True),
        ("input[x]", True),
        ("object.get(input, x, 1)", True),
        ("input.historyx # input.now", False),
        ('"input.now"', False),
        ("foo.input.now", False),
        ("data.helper.x", True),
        ('data["helper"].x', True),
    ],
)
def test_what_a_question_reads_says_whether_its_answer_may_change(rules, volatile):
    modules = module(f"deny contains {rules}") | {"b.rego": "package buspass.start\ndeny contains input.now"}
    if "helper" in rules:
        modules["c.rego"] = "package helper\nx := input.history"
    assert ("call" in EmbeddedEngine(modules).volatile) is volatile


def test_a_module_that_reads_another_questions_rules_reads_what_they_read():
    modules = module("deny contains data.buspass.start.x") | {
        "b.rego": "package buspass.start\nx := input.now\ny := input.host.name"
    }
    assert reads(modules, "call") == {("now",), ("host", "name")}
    assert reads(modules, "start") == {("now",), ("host", "name")}


def test_regopy_is_imported_only_where_a_module_is_asked():
    code = (
        "import sys; from buspass.policy.embedded import EmbeddedEngine; import buspass.policy.lint;"
        "EmbeddedEngine({}); sys.exit('regopy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_patterns_can_be_compiled_beside_the_engine():
    """In a process of its own, where the engine comes first: what is wrong with it would end this one."""
    code = f"""
from buspass.policy.embedded import EmbeddedEngine
from buspass.policy.lint import lint
modules = {module('deny contains "x" if { regex.match(`^a{1,40}$`, "aa") }')!r}
lint(modules)
EmbeddedEngine(modules)
from buspass.mediation.patterns import compiled
from buspass.mediation.scanner import PEM_END
assert compiled(PEM_END).search("-----END PRIVATE KEY-----")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_regopy_is_imported_in_one_place():
    core = Path(decide.__file__).parents[1]
    found = [path.name for path in core.rglob("*.py") if re.search(r"(import|from) regopy", path.read_text())]
    assert found == ["library.py"]
