"""What is proven and written by its shape is what the rules accept and `canonical` writes; all else gets no text."""

import copy
import random
import sys

import pytest

from buspass.journal import Journal
from buspass.journal.records import _MEMBER, _NO_MAC
from buspass.journal.written import leaf_of
from buspass.jsontext import canonical
from buspass.ports import shapes
from buspass.ports.operations import WHOLE, Put
from buspass.ports.shapes import OFTEN, PLACES, Shapes, shape_of
from buspass.ports.state import check


class Text(str):
    __slots__ = ()


RECORD = {
    "kind": "inference",
    "at": 1_795_790_431_079,
    "cause": "",
    "usage": {"output": 12, "input": 130, "deep": {"é": "ö", "b": None}},
    "offers": [{"tool": "t", "id": "1"}, {"tool": "u", "id": "2"}],
    "names": ["b", "a"],
    "none": [],
    "estimated": False,
    "turn": 3,
    "a.b-c:": None,
}
OTHERS = [
    *("", "a", '\x00\x1f\x7f\\"/\b\f\n\r\t', "\u2028é😀", "half \ud800", Text("t")),
    *(0, -1, WHOLE, -WHOLE, WHOLE + 1, -WHOLE - 1, 2**64, True, False, None, 1.0, float("nan")),
    *([], {}, (), ("a",), ["a"], [1], ["a", 1], [[]], [{}], {"a"}, b"a", {"id": "1"}, [{"tool": "t", "id": "1"}]),
    *([{"tool": "t"}], [{"tool": 1, "id": "1"}], {"output": 1, "input": 2}, {"": "a"}, {1: "a"}, {"a b": "c"}),
]


def places(value):
    """Every map in a value, and in its lists."""
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from places(each)


def mutated(chance, record):
    new = copy.deepcopy(record)
    for _ in range(chance.choice([0, 1, 1, 1, 2, 5])):
        holder = chance.choice([new, *places(new)])
        name = chance.choice([*holder]) if holder else "x"
        match chance.randrange(8):
            case 0:
                holder.pop(name, None)
            case 1:
                holder[chance.choice(["more", "m.1", "", "a b", '"'])] = copy.deepcopy(chance.choice(OTHERS))
            case 2:
                holder[name] = holder.pop(name, 1)  # in another order
            case _:
                holder[name] = copy.deepcopy(chance.choice(OTHERS))
    return new


def sound(value):
    try:
        check([Put("k", value)])
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def test_every_character_is_written_as_canonical_writes_it():
    points = [point for point in range(sys.maxunicode + 1) if not 0xD800 <= point <= 0xDFFF]
    for at in range(0, len(points), 8192):
        value = {"text": "".join(map(chr, points[at : at + 8192]))}
        assert shape_of({"text": ""}).text(value) == canonical(value)


def test_a_shapes_text_is_canonical_and_the_map_keeps_every_rule():
    chance, written, refused = random.Random(11), 0, 0
    for _ in range(60):
        specimen = mutated(chance, RECORD)
        shape = shape_of(specimen) if sound(specimen) else None
        for _ in range(40 if shape else 0):
            value = mutated(chance, specimen)
            text = shape.text(value)
            if text is None:
                refused += 1
                continue
            written += 1
            assert sound(value), value
            assert text == canonical(value)
    assert written > 200
    assert refused > 200


def test_what_it_was_made_of_is_of_its_shape():
    assert shape_of(RECORD).text(RECORD) == canonical(RECORD)
    for name, value in (("names", ("b", "a")), ("names", {"b"}), ("none", ()), ("offers", (*RECORD["offers"],))):
        assert shape_of(RECORD).text({**RECORD, name: value}) is None
    for value in ({"a": 1.0}, {"a": [[]]}, {"a": {"b": [1]}}, {"a": ["x", 1]}, {'"': 1}, {"a": [1.0]}):
        shape = shape_of(value)
        assert shape is None or shape.text(value) is None


def test_a_shape_is_made_when_the_like_came_often_and_few_are_kept():
    known = Shapes()
    assert [known.text(RECORD, "r") for _ in range(OFTEN)] == [None] * OFTEN
    assert known.text(RECORD, "r") == canonical(RECORD)
    for bad in ({**RECORD, "turn": 2.0}, {**RECORD, "cause": "\ud800"}, {**RECORD, "turn": "\ud800"}):
        assert [known.text(bad, "r") for _ in range(OFTEN + 1)] == [None] * (OFTEN + 1)
    another = {**RECORD, "turn": "3"}
    texts = [known.text(another, "r") for _ in range(OFTEN + 1)]
    assert texts[-1] == canonical(another)
    assert known.text(RECORD, "r") == canonical(RECORD)
    for n in range(3 * PLACES):
        for _ in range(OFTEN):
            known.text({"n": n}, n)
    assert len(known._shapes) <= PLACES
    for n in range(3 * PLACES):
        known.text({"n": n}, -n - 1)
    assert len(known._met) <= PLACES


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        {**RECORD, "cause": _MEMBER.decode()},
        {**RECORD, "cause": _NO_MAC, "a": {"mac": _NO_MAC, "more": "x"}},
        {**RECORD, "zz": {"mac": _NO_MAC, "more": "x"}},
        {**RECORD, "v": 7},
        {"use": {"tokens": 1, "cost": 2}, "name": 'quoted " name', "kind": "action", "host": "h"},
    ],
)
@pytest.mark.parametrize("place", [("t", "rec:a"), ('q"\\', "rec:'\"")])
def test_a_put_is_stamped_as_its_record_is(record, place):
    journal = Journal(b"k" * 32)
    puts = [journal.put(*place, record) for _ in range(OFTEN + 2)]
    for put in puts:
        assert put.value == journal.stamp(*place, record)
        assert journal.genuine(*place, put.value)
        assert put.text in {b"", canonical(put.value)}
        assert leaf_of(place[1], put.value, put.text) == leaf_of(place[1], put.value)
    assert bool(puts[-1].text) == all("mac" not in each for each in places(record))


def test_records_that_vary_are_stamped_alike_with_and_without_their_text():
    journal, chance, known = Journal(b"k" * 32), random.Random(3), 0
    for _ in range(600):
        record = {"kind": "k", **mutated(chance, {name: RECORD[name] for name in ("at", "cause", "usage", "offers")})}
        if not sound({**record, "v": 1, "mac": ""}):
            continue
        put = journal.put("t", "rec:a", record)
        known += bool(put.text)
        assert put.value == journal.stamp("t", "rec:a", record)
        assert put.text in {b"", canonical(put.value)}
    assert known > 50


def test_a_text_spares_the_look_at_the_map(monkeypatch):
    monkeypatch.setattr("buspass.ports.sound._put", lambda _: False)
    check([Put("k", {"a": 1}, text=b'{"a":1}')])
    assert shapes.shape_of({"a": 1}).text({"a": 2}) == b'{"a":2}'
