"""What `Server-Timing` says of a call's stations, quickly or in general."""

from __future__ import annotations

import random
import re

import pytest

from buspass.calls.call import Stopwatch

STATIONS = ["authenticate", "parse", "recall", "guard", "plan", "inspect", "decide", "hold", "dispatch", "settle"]


class Ticking:
    """A clock that stands still until it is told of a time."""

    def __init__(self) -> None:
        self.time = 0.0

    def monotonic(self) -> float:
        return self.time


def said(header: str) -> dict[str, float]:
    found = re.findall(r"(\w+);dur=([0-9]+\.[0-9]{2})(?:, |$)", header)
    assert ", ".join(f"{name};dur={number}" for name, number in found) == header
    return {name: float(number) for name, number in found}


@pytest.mark.parametrize("most", [0.02, 4.0, 249.0, 900.0, 90_000.0])
def test_every_station_is_told_with_its_time_whatever_it_was(most: float) -> None:
    draw = random.Random(int(most * 100))
    for _ in range(300):
        clock = Ticking()
        clock.time = draw.uniform(0, 10**6)
        watch, spent = Stopwatch(clock, "authenticate"), {}  # type: ignore[arg-type]
        for station, after in zip(STATIONS, [*STATIONS[1:], ""], strict=True):
            spent[station] = draw.uniform(0, most) if draw.random() < 0.9 else 0.0
            clock.time += spent[station] / 1000
            if after:
                watch.at[after] = watch.now()
        told = said(watch.header())
        assert list(told) == STATIONS
        assert told == pytest.approx(spent, abs=0.0101)


def test_a_station_that_was_come_to_twice_has_both_times() -> None:
    clock = Ticking()
    watch = Stopwatch(clock, "authenticate")  # type: ignore[arg-type]
    for station in STATIONS[1:8]:
        clock.time += 0.001
        watch.at[station] = watch.now()
    clock.time += 0.001
    watch.again("guard")
    for station in STATIONS[4:]:
        clock.time += 0.002
        watch.at[station] = watch.now()
    told = said(watch.header())
    assert told == pytest.approx(
        dict.fromkeys(STATIONS, 0.0)
        | {
            "authenticate": 1,
            "parse": 1,
            "recall": 1,
            "guard": 3,
            "plan": 3,
            "inspect": 3,
            "decide": 3,
            "hold": 3,
            "dispatch": 2,
        },
        abs=0.0101,
    )
