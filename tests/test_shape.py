"""The house keeps its shape: sizes, names, words, and documents that know every code, route, header and verb."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from buspass import cli
from buspass.errors import CODES
from buspass.http import headers
from buspass.http.app import ROUTES
from buspass.http.operation import UNSERVED

ROOT = Path(__file__).parent.parent
HOSTS = ("core", "aws", "azure", "onprem")
FILE_LINES, SUITE_LINES, FUNCTION_LINES, PORT_METHODS = 400, 600, 50, 6

EXCEPTIONS = {
    # "core/buspass/room/file.py": "why this one may be longer",
}
"""Files that may break the rules of size, each with its reason."""

HALVES = "TO.DO FIX.ME XX.X NotImplemented.Error pytest..skip mark..skip xf.ail importor.skip unittest..skip"
WORDS = [word.replace("..", "\0").replace(".", "").replace("\0", ".") for word in HALVES.split()]
"""What half-done work calls itself. Written in halves (`..` is a dot), so that this file is not its own finding."""


def python(*folders):
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts]
    assert found, folders
    return sorted(found)


def name(path):
    return path.relative_to(ROOT).as_posix()


@cache
def text(path):
    return path.read_text("utf-8")


def tree(path):
    """Not kept: close to a million nodes would have to be looked through by every later test's garbage collection."""
    return ast.parse(text(path))


@cache
def outline(path):
    """(docstring, [(line and name, lines)] of all functions)"""
    whole = tree(path)
    functions = [
        (f"{node.lineno} {node.name}", node.end_lineno - node.lineno + 1)
        for node in statements(whole)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return ast.get_docstring(whole), functions


def statements(node):
    """All below it, however deep, and no expression: of nodes most are those."""
    for below in ast.iter_child_nodes(node):
        if isinstance(below, ast.stmt | ast.excepthandler | ast.match_case):
            yield below
            yield from statements(below)


CODE = python(*HOSTS, "examples", "infra")
TESTS = python("tests")


# ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_file_is_longer_than_its_limit():
    limits = dict.fromkeys(CODE, FILE_LINES) | dict.fromkeys(TESTS, SUITE_LINES)
    lengths = {name(path): len(text(path).splitlines()) for path in limits if name(path) not in EXCEPTIONS}
    assert {at: n for at, n in lengths.items() if n > limits[ROOT / at]} == {}


def test_no_function_is_longer_than_a_page():
    functions = [
        (f"{name(path)}:{function}", n)
        for path in CODE + TESTS
        if name(path) not in EXCEPTIONS
        for function, n in outline(path)[1]
    ]
    assert [(at, n) for at, n in functions if n > FUNCTION_LINES] == []


def test_every_exception_is_needed_and_has_its_reason():
    assert [at for at, why in EXCEPTIONS.items() if not (ROOT / at).exists() or len(why) < 20] == []


def test_a_port_has_few_methods():
    ports = {
        f"{name(path)} {node.name}": sum(isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) for part in node.body)
        for path in python("core/buspass/ports")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Protocol") for base in node.bases)
    }
    assert len(ports) >= 7
    assert {port: n for port, n in ports.items() if n > PORT_METHODS} == {}


# ── names and words ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_module_says_what_it_owns():
    assert [name(path) for path in CODE + TESTS if not outline(path)[0]] == []


def test_no_module_is_named_after_nothing():
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    parts = {name(path): vague & {*path.relative_to(ROOT).parent.parts, path.stem} for path in CODE}
    assert {at: found for at, found in parts.items() if found} == {}


@pytest.mark.parametrize("word", WORDS)
def test_nothing_is_left_half_done(word):
    found = re.compile(rf"\b{re.escape(word)}\b")
    assert [name(path) for path in python(*HOSTS, "tests") if found.search(text(path))] == []


def test_every_silenced_complaint_is_named():
    bare = re.compile(r"#[ \t]*(type:[ \t]*ignore(?!\[[a-z])|noqa(?!: [A-Z]+[0-9]))")
    found = [(path, each.start()) for path in CODE + TESTS for each in bare.finditer(text(path))]
    assert [f"{name(path)}:{text(path).count('\n', 0, at) + 1}" for path, at in found] == []


# ── the traps of a folder named azure ───────────────────────────────────────────────────────────────────────────────


def test_folders_that_share_a_namespace_hold_no_init():
    assert [folder for folder in HOSTS if (ROOT / folder / "__init__.py").exists()] == []
    assert [name(path) for path in TESTS if path.name == "__init__.py"] == []
    assert [str(path) for path in (ROOT / "tests").rglob("azure")] == []


@pytest.mark.parametrize("folder", [".", "azure"])
def test_the_sdk_and_our_folder_live_side_by_side(folder):
    code = f"import sys; sys.path.insert(0, {str(ROOT / folder)!r}); import azure.functions, buspass_azure"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / folder, check=True)


# ── documents ───────────────────────────────────────────────────────────────────────────────────────────────────────


def page(at):
    return (ROOT / "docs" / at).read_text("utf-8")


def test_every_code_is_documented_with_its_status():
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (yes|no) \|", page("problems.md"), re.MULTILINE)
    assert len(rows) == len({code for code, _, _ in rows})
    documented = {code: (int(status), retry == "yes") for code, status, retry in rows}
    assert documented == {code: (row.status, row.retryable) for code, row in CODES.items()}


def test_every_code_is_raised_somewhere():
    said = {
        node.value
        for path in python(*HOSTS)
        if name(path) != "core/buspass/errors.py" and "core/buspass/testing/" not in name(path)
        if any(code in text(path) for code in CODES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(set(CODES) - said) == []


def test_every_problem_that_is_raised_has_a_code():
    raised = {
        node.args[0].value: f"{name(path)}:{node.lineno}"
        for path in python(*HOSTS)
        if "Problem(" in text(path)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Problem") and node.args
        if isinstance(node.args[0], ast.Constant)
    }
    assert {code: at for code, at in raised.items() if code not in CODES} == {}


def test_every_route_is_documented_and_no_other():
    documented = re.findall(r"^\| `((?:GET|POST|PUT|DELETE|PATCH) /\S*)` \|", page("api.md"), re.MULTILINE)
    assert sorted(documented) == sorted(f"{route.method} {route.path.replace(':path', '')}" for route in ROUTES)


def refused_families():
    """The refused endpoints without what lies below another of them."""
    served = {route.path for route in ROUTES}
    paths = {path.replace(":path}", "}") for path in UNSERVED}
    roots = {path.removesuffix("/{rest}") for path in paths}
    whole = {path if path.removesuffix("/{rest}") in served else path.removesuffix("/{rest}") for path in paths}
    return {path for path in whole if not any(path.startswith(root + "/") for root in roots - served)}


def test_every_refused_endpoint_is_documented_and_no_other():
    refused = page("api.md").split("## Not served")[1].split("\n## ")[0]
    assert sorted(re.findall(r"`(/[^`]*)`", refused)) == sorted(refused_families())


def test_every_header_of_ours_is_documented_and_no_other():
    others = ("core/buspass/testing/", "core/buspass/http/headers.py")
    code = "\n".join(text(path) for path in python("core") if not name(path).startswith(others))
    used = {found.title() for found in re.findall(r'headers\.get\("(buspass-[a-z-]+)"', code)}
    used |= set(re.findall(r"\bBuspass(?:-[A-Z][a-z]+)+\b", code))
    assert set(re.findall(r"\bBuspass(?:-[A-Z][a-z]+)+\b", page("api.md"))) == used
    assert {found for found in {**headers.REQUEST, **headers.ANSWER} if found.startswith("Buspass-")} == used


def choices(parser):
    """Each sub-command of a parser by its name."""
    actions = parser._subparsers._group_actions if parser._subparsers else []
    return {word: child for action in actions for word, child in action.choices.items()}


def test_every_verb_and_option_is_documented():
    manual = page("command-line.md")
    sections = dict(re.findall(r"^## `buspass ([a-z]+)`\n(.*?)(?=^## |\Z)", manual, re.MULTILINE | re.DOTALL))
    verbs = choices(cli.parser())
    assert sorted(sections) == sorted(verbs)
    for verb, parser in verbs.items():
        leaves = choices(parser) or {"": parser}
        words = {f"buspass {verb} {sub}".strip() for sub in leaves}
        words |= {option for leaf in leaves.values() for action in leaf._actions for option in action.option_strings}
        assert {word for word in words - {"-h", "--help"} if word not in sections[verb]} == set(), verb


def test_no_two_modules_that_tests_import_by_a_bare_name_have_the_same():
    found = [path for path in TESTS if path.parent.name != "tests" and not path.stem.startswith(("test_", "conftest"))]
    bare = [path.stem for path in found if (path.parent / "conftest.py").exists()]
    assert len(bare) == len(set(bare)), sorted(stem for stem in set(bare) if bare.count(stem) > 1)
