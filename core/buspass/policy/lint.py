"""Which modules may be loaded: refuses what the embedded engine accepts in silence or answers otherwise than OPA.

Found by regopy's compiler and by the modules' text; never by asking a question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Final

from buspass.policy import scan
from buspass.policy.scan import Token

UNEQUAL: Final = {
    r"net\..*": "is not built in here",
    r"io\.jwt\..*": "is answered otherwise than by OPA: tokens are verified before policy is asked",
    r"http\.send": "would let a policy reach the network",
    r"time\.parse_rfc3339_ns": "is answered otherwise than by OPA: compare the timestamps as strings",
    r"time\.now_ns|opa\.runtime|rand\..*|uuid\..*": "makes decisions that can't be repeated: use input.now",
    r"trace|print": "writes to the gateway's output",
    r"rego\..*": "is not built in here",
}
_UNEQUAL_PATTERN: Final = re.compile(r"\(\?[a-zA-Z^-]+[:)]|\\[pP]\{")
_OFFSET: Final = re.compile(r"\(error(?:ast)? \d+:(?P<file>[^|()]+)\|(?P<offset>\d+)\|")
_MESSAGE: Final = re.compile(r"\(errormsg \d+:(?P<text>[^\n]*?)\)\s*(?:\n|$)")
_WORDS: Final = scan.KEYWORDS | {"contains", "true", "false", "null", "input", "data", "_"}
_OPEN: Final = frozenset("([{")
_CLOSE: Final = frozenset(")]}")
_CONTINUES: Final = frozenset({"if", "contains", "in", "and", ":=", "=", "==", "|", "&", ",", ".", "else", "not"})


def lint(modules: Mapping[str, str]) -> list[str]:
    """Lines `FILE:LINE: what is wrong; what to write`, in the files' order. Empty: the modules may be loaded."""
    return list(_linted(tuple(modules.items())))


@lru_cache(maxsize=8)
def _linted(rows: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Kept, for one process may compose many hosts of the same modules, and compiling takes its time."""
    modules = dict(rows)
    found: list[str] = []
    for name, source in modules.items():
        faults = [*_package(modules, source), *_texts(source), *_functions(modules, source), *_rules(source)]
        faults += _unbound(modules, source)
        found += [f"{name}:{line}: {what}" for line, what in sorted(faults)]
    found += _undefined(modules)
    return tuple(found) or tuple(_compiled(modules))


def _package(modules: Mapping[str, str], source: str) -> Iterator[tuple[int, str]]:
    name = scan.package(source)
    if scan.question(source) is not None:
        return
    if not name:
        yield 1, "no package; write: package buspass.call"
    elif (name + ".").startswith(scan.ROOT) and not name.endswith("_test"):
        asked = ", ".join(scan.ROOT + word for word in scan.QUESTIONS)
        yield 1, f"package {name} is never asked; allowed: {asked}, or a helper outside of buspass"
    elif not name.endswith("_test") and not any(_refers(other, name) for other in modules.values()):
        yield 1, f"package {name} is used by no module; import data.{name} where it is meant"


def _refers(source: str, name: str) -> bool:
    words = [word.text for word in scan.tokens(source)]
    wanted = f"data.{name}".replace(".", " . ").split()
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words)))


def _undefined(modules: Mapping[str, str]) -> Iterator[str]:
    """Questions whose modules leave `deny` undefined: the engine would answer, and deny nothing."""
    for asked in sorted(scan.questions(modules)):
        own = {name: source for name, source in modules.items() if scan.question(source) == asked}
        if not any(_adds_reasons(scan.tokens(source)) for source in own.values()):
            first = next(iter(own))
            yield f"{first}:1: package buspass.{asked} gives no reason; write: deny contains REASON if {{ … }}"


def _adds_reasons(words: Sequence[Token]) -> bool:
    return any(rule[0].text == "deny" and rule[1:2] and rule[1].text == "contains" for rule in statements(words))


def _texts(source: str) -> Iterator[tuple[int, str]]:
    for word in scan.tokens(source):
        if word.kind not in {"string", "raw"}:
            continue
        if word.text.startswith("$"):
            yield word.line, "template strings are not read alike by every engine; use sprintf or concat"
        if _UNEQUAL_PATTERN.search(word.text):
            yield word.line, r"(?i) and \p{…} in patterns are answered otherwise than by OPA; list the characters"
        if word.kind == "string" and {"\\u", "\\/"} & set(re.findall(r"\\.", word.text)):
            yield word.line, r"\u and \/ in a string are compared as written; write the character itself"


def _functions(modules: Mapping[str, str], source: str) -> Iterator[tuple[int, str]]:
    words = scan.tokens(source)
    defined = _defined(modules, source, words)
    for name, at in scan.calls(words):
        word = words[at]
        reason = next((why for pattern, why in UNEQUAL.items() if re.fullmatch(pattern, name)), None)
        if reason is not None and name not in defined:
            yield word.line, f"{name} {reason}"
        elif name not in defined and not _built_in(name):
            yield word.line, f"there is no function {name}: the engine would take every rule that calls it for false"
        if name == "sprintf" and _formats_input(words, at):
            yield (
                word.line,
                (
                    "sprintf of something that is missing makes the rule undefined and its denial disappear; "
                    'give a constant reason, or object.get(input.…, "name", "?")'
                ),
            )


@cache
def _built_in(name: str) -> bool:
    from buspass.policy.library import Interpreter  # noqa: PLC0415 - 30 ms that only policies pay

    return name == "set" or bool(Interpreter().is_builtin(name))


def _formats_input(words: Sequence[Token], at: int) -> bool:
    """Whether a call's arguments hold a reference into the input that is not guarded by object.get."""
    depth, guarded = 0, 0
    for position, word in enumerate(words[at + 1 :], at + 1):
        if word.text in _OPEN:
            depth += 1
            guarded = guarded or (depth if _dotted(words, position) == "object.get" else 0)
        elif word.text in _CLOSE:
            guarded = 0 if guarded == depth else guarded
            depth -= 1
            if depth == 0:
                return False
        elif word.text == "input" and not guarded:
            return True
    return False


def _dotted(words: Sequence[Token], at: int) -> str:
    return "".join(word.text for word in words[max(0, at - 3) : at])


def _defined(modules: Mapping[str, str], source: str, words: Sequence[Token]) -> set[str]:
    """The functions that a module may call by name: its package's own, and those of packages it imports."""
    own = scan.package(source)
    defined: set[str] = set()
    for other in modules.values():
        name, heads = scan.package(other), _heads(scan.tokens(other))
        defined |= heads if name == own else set()
        defined |= {f"data.{name}.{head}" for head in heads}
        for alias in _aliases(words, name):
            defined |= {f"{alias}.{head}" for head in heads}
    return defined


def _aliases(words: Sequence[Token], name: str) -> Iterator[str]:
    for rule in statements(words):
        texts = [word.text for word in rule]
        if texts[0] == "import" and "".join(texts[1:]).removeprefix("data.").split("as")[0] == name:
            yield texts[-1]


def _heads(words: Sequence[Token]) -> set[str]:
    """Names defined as functions."""
    return {rule[0].text for rule in statements(words) if rule[1:2] and rule[1].text == "("}


def statements(words: Sequence[Token]) -> Iterator[list[Token]]:
    """The module cut where a line begins with a name outside of all brackets and nothing is left open before it."""
    rule: list[Token] = []
    depth = 0
    for word in words:
        begins = word.first and depth == 0 and word.kind == "name" and word.text not in {"else", "with"}
        if begins and rule and rule[-1].text not in _CONTINUES:
            yield rule
            rule = []
        rule.append(word)
        depth += (word.text in _OPEN) - (word.text in _CLOSE)
    if rule:
        yield rule


def _rules(source: str) -> Iterator[tuple[int, str]]:
    words = scan.tokens(source)
    rules = [rule for rule in statements(words) if rule[0].text not in {"package", "import"}]
    for rule in rules:
        if _v0(rule):
            yield rule[0].line, "a rule without if, or deny[…]: this is Rego v0; write: deny contains REASON if { … }"
    yield from _recursive(rules)


def _v0(rule: list[Token]) -> bool:
    """`deny[x]`, which Rego v1 reads as an object, or a body that follows its head without `if`."""
    if [word.text for word in rule[:2]] == ["deny", "["]:
        return True
    depth = 0
    for before, word in pairwise(rule):
        if word.text == "{" and depth == 0 and (before.text in _CLOSE or _ends(before, rule)):
            return True
        depth += (word.text in _OPEN) - (word.text in _CLOSE)
    return False


def _ends(word: Token, rule: list[Token]) -> bool:
    """Whether a word ends a head, so that a brace after it would be a body."""
    value = word.kind in {"name", "string", "raw", "number"}
    return value and word.text not in {*scan.KEYWORDS, "contains"} and all(p.text != "every" for p in rule)


def _unbound(modules: Mapping[str, str], source: str) -> Iterator[tuple[int, str]]:
    """Names that nothing defines, a rule's name misspelt for one: OPA refuses them, regopy takes them for undefined."""
    own = [scan.tokens(other) for other in modules.values() if scan.package(other) == scan.package(source)]
    known = {_name(rule) for words in own for rule in statements(words)} | _WORDS
    rules = list(statements(scan.tokens(source)))
    known |= {rule[-1].text for rule in rules if rule[0].text == "import"}
    for rule in rules:
        if rule[0].text in {"package", "import"}:
            continue
        bound = known | set(_bound(rule))
        called = {at for _, at in scan.calls(rule)}
        for at, (before, word) in enumerate(pairwise(rule), 1):
            free = word.kind == "name" and before.text != "." and at not in called
            if free and word.text not in bound:
                yield word.line, f"{word.text} is never bound: the engine would take the rule for false"


def _bound(rule: list[Token]) -> Iterator[str]:
    """Names that a rule binds: parameters, `some`, `every`, both sides of `:=` and `=`, and indices."""
    texts = [word.text for word in rule]
    for at, text in enumerate(texts):
        if text in {":=", "="}:
            yield from _group(texts, at - 1, -1)
            yield from _group(texts, at + 1, 1)
        elif text in {"some", "every"}:
            yield from texts[at + 1 : texts.index("in", at)] if "in" in texts[at:] else texts[at + 1 : at + 2]
        elif text == "(" and at == 1:
            yield from _group(texts, at, 1)
        elif text == "[" and texts[at + 2 : at + 3] == ["]"]:
            yield texts[at + 1]


def _group(texts: list[str], at: int, step: int) -> list[str]:
    """One name, or everything in the brackets that begin there."""
    depth, names = 0, []
    while 0 <= at < len(texts):
        depth += (texts[at] in _OPEN) - (texts[at] in _CLOSE)
        names.append(texts[at])
        if depth == 0:
            break
        at += step
    return names


def _recursive(rules: list[list[Token]]) -> Iterator[tuple[int, str]]:
    """Rules of one file that need themselves: OPA refuses them, regopy takes them for undefined."""
    lines = {_name(rule): rule[0].line for rule in rules}
    needs: dict[str, set[str]] = {name: set() for name in lines}
    for rule in rules:
        needs[_name(rule)] |= {
            word.text
            for before, word in pairwise(rule)
            if word.kind == "name" and word.text in lines and before.text not in {".", "default"}
        }
    for name, line in lines.items():
        if name in _reached(needs, name):
            yield line, f"rule {name} needs itself"


def _name(rule: list[Token]) -> str:
    return rule[1].text if rule[0].text == "default" and len(rule) > 1 else rule[0].text


def _reached(needs: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    ahead = set(needs[start])
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead |= needs[name]
    return reached


def _compiled(modules: Mapping[str, str]) -> Iterator[str]:
    """What regopy's own compiler says, with the line it means."""
    asked = sorted(scan.questions(modules))
    if not asked:
        return
    from buspass.policy.library import Interpreter, LogLevel, RegoError  # noqa: PLC0415 - 30 ms that only policies pay

    interpreter = Interpreter()
    interpreter.log_level = LogLevel.NONE
    name = next(iter(modules))
    try:
        for name, source in modules.items():
            interpreter.add_module(name, source)
        if not interpreter.build(None, [f"buspass/{word}" for word in asked]).ok():
            yield f"{name}:1: the modules do not compile"
    except RegoError as error:
        yield _told(modules, name, str(error))


def _told(modules: Mapping[str, str], name: str, text: str) -> str:
    found, message = _OFFSET.search(text), _MESSAGE.search(text)
    what = message["text"] if message else "is not Rego"
    file = found["file"] if found and found["file"] in modules else name
    line = modules[file].count("\n", 0, int(found["offset"])) + 1 if found else 1
    return f"{file}:{line}: {what}"
