"""`buspass check` judges a configuration: one line when it can be used, a line for every fault when it can't."""

import argparse
import json
from pathlib import Path

import pytest

from buspass.cli import check

SMALLEST = "version: 1\nworkflows:\n  my-agent:\n    models: [openai/gpt-5-mini]\n    budget: {cost: 0.50}\n"
EXAMPLE = Path(__file__).parents[2] / "examples" / "returns" / "buspass.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("BUSPASS_HOST", "BUSPASS_URL", "BUSPASS_DATA"):
        monkeypatch.delenv(name, raising=False)


def run(*words):
    parser = argparse.ArgumentParser(prog="buspass")
    check.add(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["check", *map(str, words)])
    return arguments.run(arguments)


def test_a_usable_file_is_one_line(capsys):
    Path("buspass.yaml").write_text(SMALLEST)
    assert run("buspass.yaml") == 0
    said = capsys.readouterr()
    start, _, rest = said.out.partition("; revision ")
    assert start == "buspass.yaml: ok"
    assert rest[16:] == "; hosts onprem; workflows my-agent; targets openai/gpt-5-mini\n"
    assert said.err == ""


def test_warnings_are_counted_and_told(capsys):
    Path("buspass.yaml").write_text(SMALLEST.replace("cost: 0.50", "calls: 5"))
    assert run("buspass.yaml") == 0
    said = capsys.readouterr()
    assert said.out.endswith("; 1 warning\n")
    assert said.err == "buspass.yaml: warning: workflows.my-agent.budget.cost: unlimited\n"


def test_faults_are_told_on_standard_error_with_exit_code_2(capsys):
    Path("buspass.yaml").write_text(SMALLEST.replace("gpt-5-mini", "gpt-9").replace("budget", "bugdet"))
    assert run("buspass.yaml") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(
        "buspass.yaml:5:5 workflows.my-agent.bugdet: unknown key, did you mean budget?; allowed: "
    )
    Path("buspass.yaml").write_text(SMALLEST.replace("gpt-5-mini", "gpt-9"))
    assert run("buspass.yaml") == 2
    assert capsys.readouterr().err == (
        "buspass.yaml:4:14 workflows.my-agent.models[0]: no price for 'openai/gpt-9'; "
        "see 'buspass models', or add prices:\n"
    )


def test_machines_get_json(capsys):
    assert run(EXAMPLE, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("revision")
    assert found == {
        "ok": True,
        "issuer": "http://127.0.0.1:8710",
        "hosts": ["aws", "azure", "onprem"],
        "workflows": ["return-exception"],
        "targets": ["sim/planner-1"],
        "tools": ["get_customer", "get_order", "legal_check", "refund"],
        "policies": ["returns.rego", "start.rego"],
        "warnings": [],
    }
    Path("b.yaml").write_text("version: 2\nworkflows: {w: {}}\n")
    assert run("b.yaml", "--json") == 2
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "problems": ["b.yaml:1:10 version: not a version of this file; allowed: 1"],
    }


def test_a_file_for_an_open_bind_is_judged_as_such(capsys):
    Path("buspass.yaml").write_text(SMALLEST)
    assert run("buspass.yaml", "--bind", "10.0.0.1") == 2
    assert "identity: is required where others can reach the gateway" in capsys.readouterr().err


def test_rego_that_cannot_be_loaded_is_told(capsys):
    Path("policies").mkdir()
    Path("policies/a.rego").write_text("package buspass.call\n\ndeny contains x if {\n")
    Path("buspass.yaml").write_text(SMALLEST + "policy: {path: policies}\n")
    assert run("buspass.yaml") == 2
    assert capsys.readouterr().err.startswith("policy a.rego:")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["missing", "folder", "loop"],
)
def test_a_file_that_cannot_be_read_is_a_line_and_no_stack_trace(make, reason, capsys):
    make(Path("b.yaml"))
    assert run("b.yaml") == 2
    assert capsys.readouterr().err == f"b.yaml:1:1 (document): cannot be read: {reason}\n"


def test_nothing_is_made_by_looking(tmp_path):
    Path("buspass.yaml").write_text(SMALLEST)
    before = sorted(tmp_path.rglob("*"))
    run("buspass.yaml")
    assert sorted(tmp_path.rglob("*")) == before
