"""Meet so many faults in simulated worlds, or plant every bug and count the faults until it is seen.

    python bench/faults.py [--faults 3000000] [--first 1000000]
    python bench/faults.py --planted [--most 300000]

Two thirds of the faults in worlds of one task, one third in whole domains (`tests/simulation`). Prints what happened,
every minute and at the end; a broken law is printed with its seed, shortened, and the exit code is 1. Owns the count.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS / "simulation"))
EVERY = 60.0


def worlds() -> list[tuple[str, Any, tuple[int, ...], dict[str, Any]]]:
    """Give both kinds of world: name, way to live one, sizes, planted bugs."""
    import domain_world
    import ledger_world
    import letters
    import notary
    import planted

    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        settings, signers = letters.founded(folder)
    notary.installed(pytest.MonkeyPatch())
    domain = functools.partial(domain_world.run, settings, signers)
    return [
        ("tasks", ledger_world.run, ledger_world.CALLS, planted.LEDGER),
        ("domains", domain, domain_world.SIZES, planted.DOMAIN),
    ]


def meet(faults: int, first: int) -> int:
    """Live worlds until so many faults were met; give the exit code."""
    import laws

    both, met = worlds(), {"tasks": Counter[str](), "domains": Counter[str]()}
    lived, began, told = Counter[str](), time.process_time(), time.monotonic()
    share, broken = {"tasks": faults * 2 // 3, "domains": faults - faults * 2 // 3}, 0
    while any(met[name].total() < share[name] for name in share):
        behind = min(both, key=lambda each: met[each[0]].total() / share[each[0]])
        name, run, sizes, _ = behind
        world = run(first + lived[name], sizes[-1])
        lived[name] += 1
        met[name] += world.faults
        if world.broken:
            broken += 1
            print(name, laws.shortened(run, world, sizes), flush=True)
        if time.monotonic() > told + EVERY:
            told = time.monotonic()
            print(_told(lived, met, began), flush=True)
    print(_told(lived, met, began))
    print(", ".join(f"{kind} {count:,}" for kind, count in (met["tasks"] + met["domains"]).most_common()))
    print(f"{broken} worlds broke a law")
    return 1 if broken else 0


def _told(lived: Counter[str], met: dict[str, Counter[str]], began: float) -> str:
    total, seconds = sum(each.total() for each in met.values()), time.process_time() - began
    parts = ", ".join(f"{lived[name]:,} {name} with {each.total():,}" for name, each in met.items())
    return f"{total:,} faults ({parts}) in {seconds:,.0f} s of CPU: {total / seconds:,.0f} a second"


def plant(most: int) -> int:
    """Plant every bug in turn; give the exit code."""
    import laws

    missed = 0
    for _, run, sizes, bugs in worlds():
        for bug, patches in bugs.items():
            with pytest.MonkeyPatch.context() as patching:
                for place, name, variant in patches:
                    patching.setattr(place, name, variant)
                try:
                    laws.caught(run, sizes[-1], bug, most=most)
                except pytest.fail.Exception as failure:
                    missed += 1
                    print(f"{bug}: {failure}")
            sys.stdout.flush()
    return 1 if missed else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=3_000_000)
    parser.add_argument("--first", type=int, default=1_000_000)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--most", type=int, default=300_000)
    options = parser.parse_args()
    sys.exit(plant(options.most) if options.planted else meet(options.faults, options.first))


if __name__ == "__main__":
    main()
