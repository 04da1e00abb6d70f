"""What was read once and held nothing is not read again; and it is read again where anything about it is new."""

from __future__ import annotations

import random

import pytest

from buspass.mediation import scanner
from buspass.mediation.classes import CLASSES
from buspass.mediation.credentials import labelled
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
    monkeypatch.setattr(scanner, "_CLEAN", Clean(64))
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
