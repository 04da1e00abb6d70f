"""Each pattern of a loop, of tools and models, with and without polling: which call is the first to be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loop_scripts import actor, scripts, staged

from buspass.loops.patterns import TABLE

LOOPS = scripts("loops")
DOCS = Path(__file__).parents[2] / "docs" / "breakers.md"


async def test_each_loop_is_refused_at_its_call_and_not_before(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    async with staged(tmp_path) as stage:
        for name, row in LOOPS.items():
            who = await actor(stage, row.get("workflow", "work"))
            await who.play(row["steps"])
            met = [code for (done, _), code in zip(who.answers, who.codes, strict=True) if _of(done) == row["of"]]
            assert len(met) >= 4, name
            alarms = [code for code in met if code in {"repeated_call", "loop_detected", "rate_limited"}]
            if not alarms:
                found[name] = ("goes", None)
                assert len(met) >= 9, name
            else:
                found[name] = (met.index(alarms[0]) + 1, alarms[0])
    wanted = {
        name: (row["refused"], None if row["refused"] == "goes" else row.get("first", "repeated_call"))
        for name, row in LOOPS.items()
    }
    assert found == wanted


def _of(done: str) -> str:
    return "model" if done.startswith("think") else "tool"


def test_every_pattern_stands_in_the_table_for_all_that_it_is_of() -> None:
    said = {
        (pattern, part)
        for row in LOOPS
        for pattern in TABLE
        if row.startswith(pattern)
        for part in row.replace(", ", " · ").split(" · ")[1:]
    }
    for pattern in TABLE:
        kinds = {kind for of, kind in said if of == pattern}
        assert "model" in {kind[:5] for kind in kinds}
        assert pattern == "rising" or {"tool", "polling tool"} <= kinds, "what rises is a model's cost"
        assert pattern == "signature" or "model that polls" in kinds, "a model that fails asks for nothing"


def test_the_documents_table_is_this_one() -> None:
    rows = [f"| {name} | {_said(row['refused'])} |" for name, row in LOOPS.items()]
    text = DOCS.read_text("utf-8")
    assert [row for row in rows if row not in text] == []


def _said(refused: int | str) -> str:
    ends = {2: "2nd", 3: "3rd"}
    return "goes" if refused == "goes" else ends.get(int(refused), f"{refused}th")
