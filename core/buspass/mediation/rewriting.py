"""What becomes of findings: a plan per class, applied to JSON values. Makes no plan: configuration and policy do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Literal, get_args

from msgspec import Struct
from msgspec.structs import force_setattr

from buspass.jsontext import texts_in, written
from buspass.mediation.classes import CLASSES, known
from buspass.mediation.credentials import labelled
from buspass.mediation.inspect import Finding, counted
from buspass.mediation.patterns import seen, seen_in
from buspass.mediation.placeholders import Placeholders
from buspass.mediation.scanner import CLEAN, MENTION, Part, parts, silent, silent_json, silent_name

type Action = Literal["placeholder", "mask", "block", "allow"]
ACTIONS: Final[tuple[str, ...]] = get_args(Action.__value__)
NUMBERS: Final = frozenset({int, float})
LONG_NUMBER: Final = 10**11
"""JSON numbers from twelve digits on are read as text: a card number need not be a string."""


class ContentBlocked(Exception):  # noqa: N818 - the problem `content_blocked` before it has a client
    """A class whose action is `block` was found. `findings` are those; nothing in them or the message is a value."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{finding.class_} at {finding.position}" for finding in self.findings))


class Plan(Struct, frozen=True, kw_only=True):
    """Action per class; a class that is not named is not looked for, but `secret` is blocked unless it is named.

    `placeholders` is needed by the action `placeholder` and by `restore`, which puts values back into the text.
    `regions` (ISO 3166) add telephone numbers as they are written there. Strings at the positions `opaque` are neither
    read nor changed. `classes` that are looked for follow from the actions. ValueError for what can't be done.
    """

    actions: Mapping[str, Action]
    placeholders: Placeholders | None = None
    restore: bool = False
    regions: tuple[str, ...] = ()
    opaque: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        force_setattr(self, "classes", ordered(("secret", *self.actions)))
        _check(tuple(self.actions.items()))
        if self.placeholders is None and (self.restore or "placeholder" in self.actions.values()):
            raise ValueError("placeholders are needed to make or restore them")

    def action(self, class_: str) -> Action:
        return self.actions.get(class_, "block" if class_ == "secret" else "allow")

    def blocked(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """Those among `findings` that forbid the call."""
        return tuple(finding for finding in findings if self.action(finding.class_) == "block")

    def apply(self, part: Part) -> str:
        """The text in place of a part. What is blocked is left out: whoever asked for it is told otherwise."""
        if part.class_ is None:
            return part.text
        if part.class_ == "placeholder":
            return self.placeholders.value(part.text) if self.restore and self.placeholders else part.text
        action = self.action(part.class_)
        if action == "allow":
            return part.text
        if part.more or action == "block":
            return ""
        if action == "mask" or self.placeholders is None:
            return CLASSES[part.class_].mask(part.text)
        return self.placeholders.make(part.class_, part.text)


@lru_cache(maxsize=256)
def _check(actions: tuple[tuple[str, Action], ...]) -> None:
    known(tuple(name for name, _ in actions))
    unknown = {action for _, action in actions} - set(ACTIONS)
    if unknown:
        raise ValueError(f"no such action: {sorted(unknown)}; there are {', '.join(ACTIONS)}")


@lru_cache(maxsize=256)
def ordered(names: tuple[str, ...]) -> tuple[str, ...]:
    """The named classes in order of priority, as `known` gives them; remembered."""
    return known(names)


def untouched(value: Any, classes: tuple[str, ...]) -> bool:
    """Whether `rewrite` would surely find nothing of these classes in a JSON value: nearly always, seen in one look."""
    said = value
    if type(value) is dict:
        # not numbers that nobody reads as text: so a limit's digits are not taken for anything
        said = [*value, *[part for part in value.values() if type(part) not in NUMBERS or abs(part) >= LONG_NUMBER]]
    try:
        if silent_json(written(said), classes):
            return True
    except (ValueError, TypeError):
        pass  # half a surrogate pair, or no JSON: what its texts are says the walk
    return silent(texts_in(value, numbers_from=LONG_NUMBER), classes)


def mentioned(value: Any) -> bool:
    """Whether a placeholder may stand in a JSON value, its brackets spelled as they may be (JSON's escapes)."""
    try:
        return seen_in(MENTION, written(value))
    except (ValueError, TypeError):  # as in `untouched`
        return seen(MENTION, "\n".join(texts_in(value, numbers_from=LONG_NUMBER)))


def rewrite(value: Any, plan: Plan, at: str = "", *, looked: bool = False) -> tuple[Any, tuple[Finding, ...]]:
    """A JSON value with the plan applied to every string in it, and what was found where.

    Positions are paths (`messages[0].content`) below `at`. Names of members are looked into and reported, not changed;
    one in which something is found is `<name>` in paths. A number of twelve digits or more in which something is found
    becomes a string. `value` is not changed. ContentBlocked if anything is found that the plan blocks. `looked`: it is
    known that it is not `untouched`.
    """
    if not looked and untouched(value, plan.classes):
        return value, ()
    findings: list[Finding] = []
    changed = _rewritten(value, plan, at, findings)
    blocked = plan.blocked(findings)
    if blocked:
        raise ContentBlocked(blocked)
    return changed, tuple(findings)


def _rewritten(value: Any, plan: Plan, at: str, findings: list[Finding]) -> Any:
    match value:
        case str():
            return value if at in plan.opaque else _text(value, plan, at, findings)
        case dict():
            return {name: _member(name, part, plan, at, findings) for name, part in value.items()}
        case list():
            return [_item(part, plan, f"{at}[{index}]", findings) for index, part in enumerate(value)]
        case int() if abs(value) >= LONG_NUMBER:
            changed = _text(str(value), plan, at, findings)
            return value if changed == str(value) else changed
        case _:
            return value


def _item(value: Any, plan: Plan, at: str, findings: list[Finding]) -> Any:
    """A message, a tool, a part of one: known as a whole where nothing was found in it, not even a placeholder."""
    if not isinstance(value, dict) or plan.opaque:
        return _rewritten(value, plan, at, findings)
    try:
        text = written(value)
    except (ValueError, TypeError):
        return _rewritten(value, plan, at, findings)
    digest = CLEAN.digest(text, plan.classes, plan.regions)
    if digest in CLEAN:
        return value
    before = len(findings)
    changed = _rewritten(value, plan, at, findings)
    if len(findings) == before and b"<" not in text:
        CLEAN.add(digest)
    return changed


def _text(text: str, plan: Plan, at: str, findings: list[Finding]) -> str:
    found = parts(text, plan.classes, plan.regions)
    if len(found) == 1 and found[0].class_ is None:
        return text
    findings += counted(at, found)
    return "".join(map(plan.apply, found))


def _member(name: str, value: Any, plan: Plan, at: str, findings: list[Finding]) -> Any:
    if silent_name(name, plan.classes):  # then it is no label either, whose names are among the triggers
        return _rewritten(value, plan, _below(at, name), findings)
    inside = counted(_below(at, "<name>"), parts(name, plan.classes, plan.regions))
    findings += inside
    position = _below(at, "<name>" if inside else name)
    if isinstance(value, str) and labelled(name, value):
        findings.append(Finding(class_="secret", position=position, count=1))
        return plan.apply(Part(text=value, class_="secret"))
    return _rewritten(value, plan, position, findings)


def _below(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
