"""The fault table: what an agent sees, pays and waits for when its provider fails. `docs/faults.md` is what is right."""

import itertools
from pathlib import Path

import pytest
from faulty import FAULTS, FIRST_TOKEN, LATE, TOTAL, Row, carry_out

pytestmark = pytest.mark.verify  # ninety-six rows over real sockets

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
HEAD = [
    "fault",
    "provider",
    "answer",
    "targets",
    "the agent gets",
    "its SDK raises",
    "repeats",
    "attempts",
    "charged",
    "ends",
]
ROWS = [
    Row(fault=fault, provider=provider, streamed=streamed, targets=targets)
    for fault, provider, streamed, targets in itertools.product(FAULTS, ("openai", "anthropic"), (False, True), (1, 2))
]
BOTH = {"provider": "both", "answer": "either", "targets": "1 or 2"}


def charged(record, held):
    """What a record's money is, against what was held for it."""
    use = record.get("use") or {}
    if not any(use.values()):
        return "nothing"
    if not record["estimated"]:
        return "the answer"
    return "the hold" if use["tokens"] == held["tokens"] else "input, and output as held"


def ends(row, answer):
    """After what time, as far as it was a matter of time."""
    if answer.code not in {"upstream_timeout", "deadline_exceeded"}:
        return "at once" if not row.slow else "after first_token"
    bound = "first_token" if row.streamed and answer.code == "upstream_timeout" else "total"
    assert answer.seconds >= {"first_token": FIRST_TOKEN, "total": TOTAL}[bound] - 0.5
    return bound


def outcome(row, seen):
    """The cells of a row, after what must hold for every row."""
    assert seen.answers, row
    for answer, record in zip(seen.answers, seen.records, strict=False):
        assert answer.status != 500, "no fault of a provider's is the gateway's own"
        assert answer.seconds <= row.within[1] + LATE, "never past the deadline"
        assert answer.headers["buspass-attempts"] == str(record["attempts"])
        assert record.get("code", "") == answer.code
        if answer.status >= 400:
            assert ("retry-after" in answer.headers) != (answer.headers.get("x-should-retry") == "false")
    assert seen.verified
    assert set(seen.budget["held"].values()) == {0}, "nothing is left held"
    for name in ("tokens", "calls", "model_calls"):
        assert seen.budget["spent"][name] == sum(use.get(name, 0) for use in seen.billed)
    refused = len(seen.records) if row.fault == "refused connection" else 0
    if not refused:
        arrived = sum(seen.arrived.values())
        assert arrived == sum(record["attempts"] for record in seen.records), "every attempt is in the journal"
    # of a call that its SDK repeats the first is told: the second may find the target's breaker open
    answer, record = seen.answers[0], seen.records[0]
    status, code, attempts = answer.status, answer.code, record["attempts"]
    money, when = charged(record, seen.held[0]), ends(row, answer)
    money += ", and the hold of the first attempt" if seen.before else ""
    gets = "the answer" if not code else f"{status} `{code}`" if status >= 400 else f"error event `{code}`"
    again = "yes" if len(seen.answers) > 1 else "no"
    return gets, again, str(attempts), money, when


def merged(outcomes, raised):
    """Rows of the page: those of a fault that end alike stand in one, where the rest of the row is any of its kind."""
    lines = []
    for fault in FAULTS:
        mine = [(row, told) for row, told in zip(ROWS, outcomes, strict=True) if row.fault == fault]
        for told in dict.fromkeys(told for _, told in mine):
            alike = [row for row, other in mine if other == told]
            for cells, rows in _cells(alike):
                gets, *rest = told
                lines.append([fault, *cells, gets, _raised(rows, raised), *rest])
    return lines


def _raised(rows, raised):
    """What the SDKs make of it, OpenAI's first."""
    kinds = list(dict.fromkeys(raised[row] for row in sorted(rows, key=lambda row: row.provider, reverse=True)))
    return " / ".join("returns" if kind == "answer" else f"`{kind}`" for kind in kinds)


def _cells(rows):
    """The fewest rows of provider, answer and targets that these are."""
    sets = [sorted({getattr(row, name) for row in rows}) for name in ("provider", "streamed", "targets")]
    if len(rows) == len(sets[0]) * len(sets[1]) * len(sets[2]):
        shown = [dict(zip(("openai", "anthropic"), ("OpenAI", "Anthropic"), strict=True)), ["whole", "streamed"]]
        first = BOTH["provider"] if len(sets[0]) == 2 else shown[0][sets[0][0]]
        second = BOTH["answer"] if len(sets[1]) == 2 else shown[1][sets[1][0]]
        third = BOTH["targets"] if len(sets[2]) == 2 else str(sets[2][0])
        yield [first, second, third], rows
        return
    name = next(name for name in ("streamed", "targets", "provider") if len({getattr(row, name) for row in rows}) == 2)
    for value in sorted({getattr(row, name) for row in rows}):
        yield from _cells([row for row in rows if getattr(row, name) == value])


def table(lines):
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [HEAD, ["---"] * len(HEAD), *lines])


async def test_the_page_says_what_an_agent_sees_of_each_fault_what_it_costs_and_how_long_it_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", "buspass")  # a warning for each row is as it must be
    found = await carry_out(ROWS, tmp_path)
    outcomes = [outcome(row, seen) for row, seen in zip(ROWS, found, strict=True)]
    shown = table(merged(outcomes, {row: seen.raised for row, seen in zip(ROWS, found, strict=True)}))
    print(shown)  # noqa: T201 - a table that a run is to show
    assert "failed inside Buspass" not in caplog.text
    new = ROOT / ".cache" / "faults.md"
    new.parent.mkdir(exist_ok=True)
    new.write_text(shown + "\n", "utf-8")
    assert shown in PAGE.read_text("utf-8"), f"put the table of {new} into docs/faults.md"
