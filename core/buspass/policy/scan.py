"""What Rego modules say, by their text alone: tokens, packages, and which parts of the input they can read.

Over-approximates: a path it reports may be unused, a path it leaves out is never read. Refuses to know an engine
and what a rule means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from msgspec import Struct

type Path = tuple[str, ...]

QUESTIONS: Final = ("start", "resume", "call", "operate")
ROOT: Final = "buspass."
KEYWORDS: Final = frozenset({"if", "not", "in", "else", "every", "some", "with", "as", "default", "import", "package"})
_TOKEN: Final = re.compile(
    r"""(?P<comment>\#[^\n]*) | (?P<string>\$?"(?:\\.|[^"\\\n])*") | (?P<raw>\$?`[^`]*`)
    | (?P<name>[A-Za-z_]\w*) | (?P<number>\d[\d.eE]*) | (?P<sign>:=|==|!=|<=|>=|\S)""",
    re.VERBOSE | re.ASCII,
)
_VOLATILE: Final = (("history",), ("now",), ("task", "status"))
_EVERYTHING: Final[frozenset[Path]] = frozenset({()})


class Token(Struct, frozen=True):
    """A word, literal or sign of a module; `line` counts from 1, `first` says that it begins its line."""

    kind: str
    text: str
    line: int
    first: bool


@lru_cache(maxsize=64)
def tokens(source: str) -> tuple[Token, ...]:
    """The module without its comments and white space; kept, for a check asks dozens of times for the same text."""
    found = []
    line, end = 1, 0
    last = 0
    for match in _TOKEN.finditer(source):
        line += source.count("\n", end, match.start())
        end = match.start()
        if match.lastgroup != "comment":
            found.append(Token(match.lastgroup or "", match[0], line, line != last))
            last = line + match[0].count("\n")
    return tuple(found)


def package(source: str) -> str:
    """The module's package, such as `buspass.call`; empty if it names none."""
    words = tokens(source)
    if not words or words[0].text != "package":
        return ""
    name = ""
    for word in words[1:]:
        if word.line != words[0].line:
            break
        name += word.text
    return name


def question(source: str) -> str | None:
    """The question that a module answers, or None for a helper."""
    name = package(source)
    asked = name.removeprefix(ROOT)
    return asked if name.startswith(ROOT) and asked in QUESTIONS else None


def questions(modules: Mapping[str, str]) -> frozenset[str]:
    """The questions that some module answers."""
    return frozenset(filter(None, map(question, modules.values())))


def reads(modules: Mapping[str, str], asked: str) -> frozenset[Path]:
    """The input paths that the answer to a question may depend on; the empty path is the whole input.

    Every helper counts, and every module once one of them refers to another question's package.
    """
    own = [source for source in modules.values() if question(source) in {asked, None}]
    if any(_leaves(tokens(source)) for source in own):
        own = list(modules.values())
    return frozenset(path for source in own for path in _paths(tokens(source)))


def volatile(paths: Iterable[Path]) -> bool:
    """Whether an answer that depends on these may change between the decision and the hold."""
    return any(path[: len(part)] == part[: len(path)] for path in paths for part in _VOLATILE)


def unsteady(modules: Mapping[str, str]) -> frozenset[str]:
    """The questions of which that is so."""
    return frozenset(asked for asked in questions(modules) if volatile(reads(modules, asked)))


def calls(words: Sequence[Token]) -> Iterator[tuple[str, int]]:
    """Every `name(` or `a.b.name(` with its dotted name and the index of its first word."""
    for at, word in enumerate(words):
        if word.text != "(" or at == 0 or words[at - 1].kind != "name" or not _touch(words, at):
            continue
        start = at - 1
        while start >= 2 and words[start - 1].text == "." and words[start - 2].kind == "name":
            start -= 2
        yield "".join(part.text for part in words[start:at]), start


def _touch(words: Sequence[Token], at: int) -> bool:
    """Whether a bracket may belong to the word before it."""
    return words[at - 1].text not in KEYWORDS


def _leaves(words: Sequence[Token]) -> bool:
    """Whether a module may read another question's rules, or the data document as a whole."""
    for at, word in enumerate(words):
        if word.text == "data" and (at == 0 or words[at - 1].text != "."):
            after = [part.text for part in words[at + 1 : at + 3]]
            if after[:1] != ["."] or after[1:] == ["buspass"]:
                return True
    return False


def _paths(words: Sequence[Token]) -> Iterator[Path]:
    for at, word in enumerate(words):
        if word.text.startswith("$"):  # a template string: what it holds is not tokenised
            yield from _EVERYTHING
        if word.text == "input" and (at == 0 or words[at - 1].text != "."):
            yield _path(words, at + 1)


def _path(words: Sequence[Token], at: int) -> Path:
    """The constant part of a reference: `.name` and `["name"]`, up to the first thing that is neither."""
    path: list[str] = []
    while at + 1 < len(words):
        sign, word = words[at], words[at + 1]
        if sign.text == "." and word.kind == "name":
            path.append(word.text)
            at += 2
        elif sign.text == "[" and word.kind == "string" and "\\" not in word.text and _closes(words, at + 2):
            path.append(word.text[1:-1])
            at += 3
        else:
            break
    return tuple(path)


def _closes(words: Sequence[Token], at: int) -> bool:
    return at < len(words) and words[at].text == "]"


def tree(paths: Iterable[Path]) -> dict[str, Any] | None:
    """The paths as a tree, for `project`: a part with nothing below it is taken whole. None for the whole document."""
    planted: dict[str, Any] = {}
    for path in sorted(paths, key=len):
        if not path:
            return None
        _plant(planted, path)
    return planted


def project(document: Mapping[str, Any], parts: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The parts of a document that a `tree` names; what is missing stays missing."""
    if parts is None:
        return document
    return {name: _cut(document[name], below) for name, below in parts.items() if name in document}


def _plant(tree: dict[str, Any], path: Path) -> None:
    for part in path:
        if part in tree and not tree[part]:
            return  # a shorter path already takes all of it
        tree = tree.setdefault(part, {})


def _cut(value: Any, tree: Mapping[str, Any]) -> Any:
    if not tree or not isinstance(value, Mapping):
        return value
    return {name: _cut(value[name], below) for name, below in tree.items() if name in value}
