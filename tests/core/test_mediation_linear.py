"""What looking into a text may cost: so many times what ordinary business text of the same size costs, and no more.

In processor time, as the machine may have other work. `test_mediation_classes` counts what is read of each text.
"""

import gc
import time
from pathlib import Path

import pytest

from buspass.mediation import scanner
from buspass.mediation.classes import CLASSES
from buspass.mediation.scanner import Clean, parts

BUSINESS = (Path(__file__).parents[1] / "data/mediation/business.txt").read_text("utf-8")
WORST = ["1234 ", "00 1 ", "DE12 3456 7890 12 ", "4111 1111 1111 111 ", "0049 1511 ", "030 9018 ", "1."]
"""What costs most among many that were tried: each looks like several classes, and is none."""
TIMES = 20
"""Measured: 3 to 6."""


SIZE = 2_000


def seconds(piece: str, size: int, tries: int = 2) -> float:
    """The quickest of so many tries: what else a machine does only ever adds to one."""
    text = (piece * (size // len(piece) + 1))[:size]
    return min(_seconds(text) for _ in range(tries))


def _seconds(text: str) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanner, "CLEAN", Clean(1))  # no text was read before
        gc.disable()  # what a whole run has left lying is not this text's
        try:
            began = time.process_time()
            assert sum(len(part.text) for part in parts(text, CLASSES, ("DE",))) == len(text)
            return time.process_time() - began
        finally:
            gc.enable()


@pytest.fixture(scope="module")
def plain() -> float:
    """Of business text, for as much of it as the hostile text has. Everything is imported before."""
    seconds("030 9018 DE12 3456 4111 a@b.de ", SIZE)
    return seconds(BUSINESS, len(BUSINESS)) * SIZE / len(BUSINESS)


@pytest.mark.verify
@pytest.mark.parametrize("piece", WORST)
def test_hostile_text_costs_a_few_times_what_business_text_does(piece: str, plain: float) -> None:
    hostile = seconds(piece, SIZE)
    assert hostile < TIMES * plain
    assert seconds(piece, 3 * SIZE) < 9 * hostile, "thrice the text, about thrice the time"


@pytest.mark.verify
@pytest.mark.parametrize("piece", WORST[:2])
def test_a_megabyte_of_hostile_text_too(piece: str) -> None:
    plain, hostile = (seconds(each, 1_000_000, tries=1) for each in (BUSINESS, piece))
    print(f"1 MB: business text {plain:.0f} s, {piece!r} {hostile:.0f} s")  # noqa: T201 - a figure that a run is to show
    assert hostile < TIMES * plain
