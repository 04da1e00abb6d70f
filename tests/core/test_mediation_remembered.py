"""What was read once and held nothing is not read again; and it is read again where anything about it is new."""

from __future__ import annotations

import random
from typing import Any

import pytest

from buspass.mediation import rewriting, scanner
from buspass.mediation.classes import CLASSES
from buspass.mediation.credentials import labelled
from buspass.mediation.placeholders import Placeholders
from buspass.mediation.rewriting import Plan, rewrite
from buspass.mediation.scanner import Clean, Part, Scanner, parts, silent_name

EVERY = tuple(CLASSES)
PIECES = (
    "Dinner is at 8. ", "bob@example.com ", "4111 1111 1111 1111", " 4111 1111 1111 1112 ", "<EMAIL_00000001>", "<A>",
    "sk-abcdef0123456789abcdef", "+44 20 7946 0958", " 030 901820 ", "é, 漢字, 🦊 1", "\ud800 7", "\n", "DE89 3704 0044",
    "0532 0130 00", "10.0.0.1", "password: hunter2!", "x", "",
)  # fmt: skip


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = Clean(64)
    monkeypatch.setattr(scanner, "CLEAN", clean)
    monkeypatch.setattr(rewriting, "CLEAN", clean)
    monkeypatch.setattr(scanner, "_SILENT", set())


def apart(found: list[Part]) -> list[tuple[str, str | None, bool]]:
    """With what is plain put together, for nobody cares where it was cut."""
    whole: list[tuple[str, str | None, bool]] = []
    for part in found:
        if whole and part.class_ is None and whole[-1][1] is None:
            whole[-1] = (whole[-1][0] + part.text, None, False)
        else:
            whole.append((part.text, part.class_, part.more))
    return whole


@pytest.mark.parametrize("regions", [(), ("DE",)], ids=["nowhere", "Germany"])
@pytest.mark.parametrize("classes", [EVERY, ("secret",), ("secret", "email")], ids="+".join)
def test_a_text_read_again_is_what_it_was(classes: tuple[str, ...], regions: tuple[str, ...]) -> None:
    chance = random.Random(2)
    texts = ["".join(chance.choices(PIECES, k=chance.randrange(5))) for _ in range(150)]
    for text in [*texts, *texts[-60:], *texts]:
        read = Scanner(classes, regions)
        assert apart(parts(text, classes, regions)) == apart([*read.feed(text), *read.flush()])


def test_a_text_is_read_once_and_one_that_holds_something_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    find = scanner.find
    monkeypatch.setattr(scanner, "find", lambda text, *rest: read.append(text) or find(text, *rest))
    for _ in range(3):
        parts("room 12", EVERY)
    assert read == ["12"]
    for _ in range(3):
        assert any(part.class_ == "email" for part in parts("bob@example.com", EVERY))
    assert read[1:] == ["bob@example.com"] * 3


def test_other_classes_and_other_regions_are_another_question() -> None:
    text = "call 030 901820"
    assert not any(part.class_ for part in parts(text, EVERY))
    assert any(part.class_ == "phone" for part in parts(text, EVERY, ("DE",)))
    mail = "room 12, bob@example.com"
    assert not any(part.class_ for part in parts(mail, ("secret", "phone")))
    assert any(part.class_ == "email" for part in parts(mail, EVERY))
    one, other = Clean(4).digest("x", ("a", "b"), ("c",)), Clean(4).digest("x", ("a",), ("b", "c"))
    assert one != other


def test_as_many_are_remembered_as_were_meant_to_be() -> None:
    clean = Clean(2)
    for digest in (b"1", b"2"):
        clean.add(digest)
    assert b"1" in clean  # which makes it the younger one
    clean.add(b"3")
    assert b"2" not in clean
    assert b"1" in clean
    assert b"3" in clean


@pytest.mark.parametrize("name", ["content", "password", "api_key", "api_\u212aey", "a@b.de", "n1", "x" * 90, "\ud800"])
def test_a_name_that_is_passed_is_neither_found_nor_a_label(name: str) -> None:
    value = "hunter22!"
    for _ in range(2):
        if silent_name(name, EVERY):
            assert not labelled(name, value)
            assert apart(parts(name, EVERY)) == [(name, None, False)]
    found = rewrite({name: value}, Plan(actions={"secret": "mask"}))[1]
    assert bool(found) is labelled(name, value)


def test_names_that_are_remembered_do_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanner, "NAMES", 8)
    letters = "abcdefghijklmnopqrstuvwxyz"
    assert all(silent_name(f"m{letter}", EVERY) for letter in letters)
    assert len(scanner._SILENT) <= 8
    assert not silent_name("bob@example.com", EVERY)
    assert not any("@" in name for name, _ in scanner._SILENT)


def message(chance: random.Random) -> Any:
    text = ["".join(chance.choices(PIECES, k=chance.randrange(3))) for _ in range(4)]
    member = {"password": text[0], "n": chance.choice((7, 4111111111111111, 10**12)), text[3] or "a": [text[2]]}
    return {"role": "user", "content": chance.choice((text[1], [{"type": "text", "text": text[1]}, member], member))}


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize("action", ["mask", "placeholder", "allow"])
def test_a_message_that_comes_again_is_rewritten_as_the_first_time(
    action: rewriting.Action, restore: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(4)
    said = [message(chance) for _ in range(60)]
    actions: dict[str, rewriting.Action] = dict.fromkeys(EVERY, action)
    kept = {"<EMAIL_00000001>": "ann@example.com"}

    def seen(messages: list[Any], most: int, opaque: frozenset[str] = frozenset()) -> Any:
        for room in (scanner, rewriting):
            monkeypatch.setattr(room, "CLEAN", clean if most else Clean(0))
        placeholders = Placeholders(b"k" * 32, kept)
        plan = Plan(actions=actions, placeholders=placeholders, restore=restore, opaque=opaque)
        return rewrite({"messages": messages}, plan)

    clean = Clean(4096)
    for _ in range(3):
        chance.shuffle(said)
        assert seen(said, 4096) == seen(said, 0)
    hidden = frozenset({"messages[0].content"})
    assert seen(said, 4096, hidden) == seen(said, 0, hidden)
    assert seen(said, 4096) == seen(said, 0)
    assert len(clean._digests) > 10


def test_a_message_known_without_restoring_is_restored_where_that_is_wanted() -> None:
    said = {"messages": [{"content": "1 for <EMAIL_00000001>"}]}
    placeholders = Placeholders(b"k" * 32, {"<EMAIL_00000001>": "ann@example.com"})
    for restore in (False, True):
        plan = Plan(actions=dict.fromkeys(EVERY, "allow"), placeholders=placeholders, restore=restore)
        seen = rewrite(said, plan)[0]["messages"][0]["content"]
    assert seen == "1 for ann@example.com"


def test_what_was_not_looked_into_is_not_known() -> None:
    said = {"messages": [{"content": "bob@example.com"}]}
    actions: dict[str, rewriting.Action] = dict.fromkeys(EVERY, "mask")
    hidden = Plan(actions=actions, opaque=frozenset({"messages[0].content"}))
    assert rewrite(said, hidden) == (said, ())
    assert rewrite(said, Plan(actions=actions))[1]
