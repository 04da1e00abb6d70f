"""The documents stay true: what can be parsed is parsed, what can be loaded is loaded, what can be run is run."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from buspass import cli
from buspass.config.build import load
from buspass.config.walk import documented_fields

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
TARGETS = set(
    re.findall(
        r"[a-z][\w-]*", " ".join(re.findall(r"^([a-z][\w -]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    )
)
BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
KEYS = {path.rpartition(".")[2] for path, _ in documented_fields()}
LANGUAGES = {"json", "yaml", "python", "sh", "sh run", "text", "rego"}


def prose(page):
    return BLOCK.sub("", page.read_text("utf-8"))


def blocks(*languages):
    found = [
        pytest.param(code, id=f"{page.relative_to(ROOT)}:{number}")
        for page in PAGES
        for number, (language, code) in enumerate(BLOCK.findall(page.read_text("utf-8")), 1)
        if language.strip() in languages
    ]
    assert found, languages
    return found


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page, link):
    target, _, anchor = link.partition("#")
    file = (page.parent / target).resolve() if target else page
    if not file.exists():
        return True
    return bool(anchor) and file.suffix == ".md" and anchor not in anchors(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    links = [link for link in LINK.findall(prose(page)) if not link.startswith(("http://", "https://", "mailto:"))]
    assert [link for link in links if broken(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page):
    languages = [language.strip() for language, _ in BLOCK.findall(page.read_text("utf-8"))]
    assert set(languages) <= LANGUAGES
    assert page.read_text("utf-8").count("\n```") == 2 * len(languages)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_every_page_is_reached_from_the_index(page):
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert page.name == "index.md" or f"({page.relative_to(ROOT / 'docs')})" in index


@pytest.mark.parametrize("code", blocks("json"))
def test_json_parses(code):
    json.loads(code)


@pytest.mark.parametrize("code", blocks("yaml"))
def test_yaml_parses_and_whole_configurations_load(code, tmp_path):
    document = yaml.safe_load(code)
    assert document is not None
    assert set(document) & KEYS, "no part of buspass.yaml"
    if code.startswith("version: 1"):
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "start.rego").write_text("package buspass.start\n")
        (tmp_path / "buspass.yaml").write_text(code)
        load(tmp_path / "buspass.yaml", environ={"BUSPASS_DATA": str(tmp_path)})


@pytest.mark.parametrize("code", blocks("python"))
def test_python_compiles(code):
    ast.parse(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_that_no_quick_test_runs_says_why(page):
    # what is unmarked is run by tests/e2e/test_docs_run.py
    marks = re.findall(r"^<!-- (.*?) -->\n```python", page.read_text("utf-8"), re.MULTILINE)
    assert [mark for mark in marks if not re.match(r"run by \w+|not run here: .{20,}", mark)] == []


def commands(code):
    """The commands of ours in a block, as words; what stands before and after one in its line is the shell's."""
    for line in code.replace("\\\n", " ").splitlines():
        found = re.match(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?buspass +(.*)", line)
        if found:
            yield list(
                takewhile(lambda word: word not in {"|", "&", "&&", ">", ";"}, shlex.split(found[1], comments=True))
            )


@pytest.mark.parametrize("code", blocks("sh", "sh run"))
def test_commands_of_ours_are_understood(code):
    for words in commands(code):
        if "--help" not in words:
            cli.parser().parse_args(words)


@pytest.mark.parametrize("code", blocks("sh", "sh run"))
def test_shell_parses_and_names_what_exists(code):
    subprocess.run(["bash", "-n"], input=code, text=True, check=True)
    assert set(re.findall(r"(?:^|[;&|] *)make ([a-z][\w-]*)", code, re.MULTILINE)) <= TARGETS


@pytest.mark.parametrize("code", blocks("sh run"))
def test_shell_that_is_marked_so_runs(code, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {**os.environ, "PATH": path, "BUSPASS_DATA": str(tmp_path / "data")}
    subprocess.run(["bash", "-euo", "pipefail"], input=code, text=True, check=True, cwd=ROOT, env=environ, timeout=300)


def test_the_readme_and_the_documents_say_the_same_is_not_built():
    pages = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/index.md")]
    lists = [" ".join(re.findall(r"Not built: ([^.]+)\.", page)[0].split()) for page in pages]
    assert lists[0] == lists[1]


def test_the_references_tables_are_those_of_the_code():
    # `make docs` writes them; tests/test_reference.py is about how
    program = "import reference, json; print(json.dumps([reference.pages(), reference.UNSAID]))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "docs"), "PYTHONSAFEPATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environ, text=True, capture_output=True, check=True)
    pages, unsaid = json.loads(done.stdout)
    for name, page in pages.items():
        assert (ROOT / "docs" / name).read_text("utf-8") == page, f"docs/{name}: run `make docs`"
        assert unsaid not in page, f"docs/{name}: say what {unsaid} stands for"
