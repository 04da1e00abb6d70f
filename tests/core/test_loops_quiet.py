"""The quick look for a loop passes over nothing: where it says that none goes on, no pattern of the table does."""

from random import Random

from msgspec.structs import asdict

from buspass.config.settings import Loops
from buspass.loops.patterns import TABLE, WINDOW, Asked, find, quiet
from buspass.loops.steps import LONG, Step, read_steps, written

STRICT = Loops(identical=1, signature=1, cycle=1, no_progress=1, rising=1)


def step(rng, number):
    kind = rng.choice(["action", "inference"])
    failed, model = rng.random() < 0.2, kind == "inference"
    return Step(
        number=number,
        kind=kind,
        name=rng.choice("ab"),
        asked=f"asked{rng.randrange(rng.choice([3, 60]))}",
        outcome=f"!fault{rng.randrange(2)}" if failed else rng.choice(["", *(f"came{rng.randrange(n)}" for n in (3, 60))]),
        large=rng.random() < 0.3,
        change=not model and rng.random() < 0.3,
        opened=failed and rng.random() < 0.3,
        polled=rng.random() < 0.1,
        lookup=not model and rng.random() < 0.5,
        cost=rng.randrange(100) if model else 0,
        heard=f"{rng.choice(['', LONG])}heard{rng.randrange(20)}" if model and rng.random() < 0.4 else "",
        refusals=rng.randrange(2) if model else 0,
    )  # fmt: skip


def wanted(rng):
    kind = rng.choice(["action", "inference"])
    heard = f"{rng.choice(['', LONG])}heard{rng.randrange(20)}" if kind == "inference" and rng.random() < 0.4 else ""
    said = f"asked{rng.randrange(rng.choice([3, 60]))}"
    return Asked(kind=kind, name=rng.choice("ab"), asked=said, heard=heard, refusals=rng.randrange(2))


def slowly(steps, asked, limits):
    alike = [each for each in steps if each.kind == asked.kind and not each.polled][-WINDOW:]
    met = (look(steps if name == "rising" else alike, asked, getattr(limits, name)) for name, look in TABLE.items())
    return next((found for found in met if found is not None), None)


def test_what_is_quiet_goes_on_with_no_pattern():
    rng, calm, loops = Random(7), 0, 0
    for _ in range(5_000):
        steps = [step(rng, number) for number in range(1, rng.randrange(2, 26))]
        asked = wanted(rng)
        limits = rng.choice([STRICT, Loops(), Loops(identical=2, signature=2, cycle=2, no_progress=2, rising=2)])
        found = slowly(steps, asked, limits)
        assert find(steps, asked, limits) == found
        calm += quiet(steps, asked)
        loops += found is not None
    assert calm > 500, "the look is worth something"
    assert loops > 400, "so is the test"


def test_the_calls_of_a_head_come_back_oldest_first_whatever_its_order():
    rng = Random(3)
    steps = [step(rng, number) for number in range(1, 25)]
    lines = [written(each) for each in steps]
    rng.shuffle(lines)
    read = read_steps({"recent": {str(place): line for place, line in enumerate(lines)}})
    assert [each.number for each in read] == [*range(1, 25)]
    kept = ("kind", "name", "asked", "outcome", "polled")
    assert [[asdict(each)[name] for name in kept] for each in read] == [[asdict(each)[name] for name in kept] for each in steps]  # fmt: skip
