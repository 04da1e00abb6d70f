"""docs/benchmarks.md and its plots, out of results.json alone: `python bench/page.py` writes them anew.

Owns the words around the figures. Refuses to hold a figure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import goals
from chart import bars, figure

QUIET = 79
"""Microseconds of CPU that the bare floor took when the goals were set."""
ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
INTRO = """\
# Benchmarks

`make bench` measures everything on this page side by side in one run, writes [results.json](../bench/results.json) and
makes the page from it. Nothing here is typed by hand; each part says when it was measured, as one may be measured anew alone (`ARGS="--only rate"`). `make bench ARGS=--quick` shows in a few minutes that it runs.

The gateway runs pinned to one core; the load and a canned upstream share the other. Each side is warmed up until it
gets no quicker (Node compiles while it serves, for thousands of calls); then they take turns, {rounds}, and a figure is the
middle of the rounds, with the least and the most behind it. **Read ratios within a table, not absolute times**: another
machine, or a busier one, moves them all. Every station is on: task token, allow-list and bounds, caps, inspection of
personal data both ways, policy where the column says Rego (a module of some sixty lines), hold and settle in SQLite on
disk, `durability=power` unless it says otherwise, journal, blobs.

"""
PEERS = """\
**The sides.** *bare* is granian and pyreqwest with nothing between: what a Python proxy costs that governs nothing. *Portkey*
is its open-source gateway from npm as a plain pass-through; it has neither keys nor budgets there (the server library under
it is kept at an older version than npm would take, with which all its streams are answered 500). *LiteLLM* is its proxy
from PyPI with one worker, plain, and with a key, a budget and a request log as it has them without a database (its
`custom_auth` hook and a callback that writes a line a call). agentgateway {agentgateway}. *upstream alone* is the load
asking its own upstream: what the measurement itself costs. Whatever is of Python, LiteLLM and *bare* too, runs on the
interpreter that the line above names; *checkout's Python*, where there is such a row, is the gateway on the one that the
checkout itself runs on.

"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n\n"


def span(row: Row, key: str) -> str:
    if "failed" in row or key not in row:
        return str(row.get("failed", "–"))
    least, middle, most = row[key]
    return f"{figure(middle)} ({figure(least)}–{figure(most)})"


def when(found: goals.Found, part: str) -> str:
    about = found.parts[part]
    before, after = about["load_average"]
    quick = ", **a quick run**: to see that it runs, not to be read as a measurement" if about.get("quick") else ""
    return f"*Measured {about['at']}; load average {before} before, {after} after{quick}.*\n\n"


def machine(results: Row) -> str:
    about, versions = results["machine"], results["versions"]
    others = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "agentgateway")
    text = f"**The machine**: {about['cores']} cores of {about['cpu']}, {about['memory_gib']} GiB, Linux {about['kernel']}, "
    text += f"Python {about['python']}, {about.get('interpreter', 'the own build of the checkout')}; load average at the start {', '.join(map(str, about['load_average']))}. "
    if about["load_average"][0] > about["cores"] / 2:
        text += (
            "**It was not idle**: others worked on the same cores, so every time is longer than it would be alone, and "
            "those that wait for a turn of the processor (the added times) are longer by far. CPU a call, instruction "
            "counts and ratios suffer least. "
        )
    return text + f"Versions: {others}.\n\n"


def goal_table(results: Row) -> str:
    rows = []
    for name, side, value, goal, floor, more, said in goals.reached(results):
        label, _, unit = name.partition("|")
        sign = "≥" if more else "≤"
        shown = "–" if value is None else f"{figure(value)} {unit}"
        rows.append([label, side, f"{sign} {figure(goal)} {unit}", f"{sign} {figure(floor)} {unit}", shown, said])
    return table(["", "Rego", "goal", "floor", "here", ""], rows)


def not_reached(results: Row) -> str:
    found = goals.Found(results)
    missed = [row for row in goals.reached(results) if row[6] != "goal reached"]
    if not missed:
        return "Everything reached its goal in this run.\n\n"
    text = "**What did not reach its goal in this run:** "
    text += "; ".join(f"{row[0].partition('|')[0]} ({row[1]}): {row[6].strip('*')}" for row in missed) + ".\n\n"
    try:
        stations = found.row("latency", side=goals.PLAIN)["stations_ms"]
        whole = found.middle("latency", "p50_ms", side=goals.PLAIN)
    except goals.Missing:
        return text
    most = sorted(stations.items(), key=lambda item: -item[1])[:4]
    text += f"**Where the time goes** at one connection, of {figure(whole)} ms a call: "
    text += ", ".join(f"{name} {figure(took)} ms" for name, took in most)
    text += (
        "; dispatch includes the upstream, hold and settle a durable commit each. What the stations do with the "
        "processor is told function by function in [bench/README.md](../bench/README.md).\n\n"
    )
    return text + busy(found)


def busy(found: goals.Found) -> str:
    """The floor in this run beside what it costs on a quiet machine, so that nobody takes these microseconds as such."""
    bare, ours = (found.middle("rate", "cpu_us", side=side) for side in (goals.BARE, goals.PLAIN))
    text = f"A governed call took {figure(ours / bare)} times the bare floor's CPU, which took {figure(bare)} µs in this run"
    if bare > 1.5 * QUIET:
        text += (
            f" and takes {QUIET} µs on a quiet machine of this kind: the goals in microseconds were set on such a one"
        )
    return text + ".\n\n"


def side_table(
    found: goals.Found, part: str, keys: Sequence[tuple[str, str]], rows: Sequence[Row] | None = None
) -> str:
    body = [[row["side"], *(span(row, key) for _, key in keys)] for row in (rows or found.rows(part))]
    return table(["", *(label for label, _ in keys)], body)


RATES = (("requests/s", "rps"), ("CPU µs a call", "cpu_us"), ("p50 ms", "p50_ms"), ("p99 ms", "p99_ms"))


def rates(found: goals.Found) -> str:
    text = "## Requests a second\n\n32 connections, prompts of 0.6 KB, each connection asking again at once, all on one task.\n\n"
    text += "![Requests a second](benchmarks-rate.svg)\n\n![CPU a call](benchmarks-cpu.svg)\n\n"
    text += side_table(found, "rate", [*RATES, ("load's core busy", "load_busy")])
    text += "Where the load's core was busy for nearly all of the time, the load and not the side set the rate. \n\n"
    return text + when(found, "rate")


def decisions(found: goals.Found) -> str:
    text = "## Rego: decisions kept and made anew\n\nA decision is kept for calls that are alike to the rules. With prompts of "
    text += "1,100 sizes in turn, more than are kept, each is made anew, as the module reads the size.\n\n"
    rows = [
        row
        | {"side": f"{row['side']}, prompts of {row['prompts']:,} size{'s' if row['prompts'] > 1 else ''}"}
        | {"decide": [row.get("stations_ms", {}).get("decide", 0)] * 3}
        for row in found.rows("decisions")
    ]
    text += side_table(found, "decisions", [*RATES, ("`decide` ms", "decide")], rows)
    return text + when(found, "decisions")


def stations(found: goals.Found) -> str:
    columns = [("rate", 32), ("latency", 1)]
    sides = [goals.PLAIN, goals.REGO, "buspass, process"]
    rows: dict[str, list[str]] = {}
    head = ["ms, middle"]
    for part, connections in columns:
        for side in sides:
            try:
                row = found.row(part, side=side)
            except goals.Missing:
                continue
            head.append(f"{side}, {connections}")
            for name, took in row["stations_ms"].items():
                rows.setdefault(name, []).append(figure(took))
    text = "## Station by station\n\nFrom `Server-Timing`, at 32 connections and at one. At 32 a station's time holds the wait"
    text += " for the others' turn.\n\n![Stations](benchmarks-stations.svg)\n\n"
    return text + table(head, [[name, *took] for name, took in rows.items() if len(took) == len(head) - 1])


def latency(found: goals.Found) -> str:
    commits = found.part("latency")["bare_commit_us"]
    text = "## One call at a time\n\n" + side_table(found, "latency", RATES)
    text += table(
        ["bare commit of 1 KB in SQLite, µs", "middle (least–most)"],
        [[f"`durability={mode}`", span({"c": took}, "c")] for mode, took in commits.items()],
    )
    text += "A governed call makes two commits, its hold and its settle.\n\n"
    if found.parts["latency"].get("awake"):
        text += (
            "The processors were kept awake meanwhile (`/dev/cpu_dma_latency`), here and for streams: what a virtual machine's"
            " takes to be had again once it has slept, at each wait of each side, is no gateway's work.\n\n"
        )
    return text + when(found, "latency")


def asleep(found: goals.Found) -> str:
    text = "## One at a time, on processors that may sleep\n\nThe same calls and streams, the processors left to themselves.\n\n"
    keys = (*RATES[:3], ("first token p50 ms", "ttft_p50_ms"))
    rows = [row | {"side": row["side"] + (", stream" if row.get("stream") else "")} for row in found.rows("asleep")]
    return text + side_table(found, "asleep", keys, rows) + when(found, "asleep")


def first(found: goals.Found) -> str:
    keys = (("first token p50 ms", "ttft_p50_ms"), ("whole p50 ms", "p50_ms"), ("CPU µs a stream", "cpu_us"))
    return "## Streams\n\nOne at a time, 23 events each.\n\n" + side_table(found, "first", keys) + when(found, "first")


def streams(found: goals.Found) -> str:
    rows = []
    for row in found.rows("streams"):
        before, after = row["resident_mb"]
        first = span(row, "ttft_ms") if row["ttft_ms"] else "–"
        statuses = ", ".join(f"{n} × {status}" for status, n in row["statuses"].items())
        rows.append([row["side"], str(row["asked"]), statuses, str(row["ended"]), first, f"{before} → {after}"])
    text = "Many open at once: all are begun together, and the upstream goes on only when every one has its first event.\n\n"
    head = ["", "asked", "answered", "ended whole", "first token ms, middle (least–most)", "resident MB"]
    return text + table(head, rows) + when(found, "streams")


def many(found: goals.Found) -> str:
    return "## 256 connections\n\n32 to a task.\n\n" + side_table(found, "many", RATES) + when(found, "many")


def sizes(found: goals.Found) -> str:
    text = "## Long prompts\n\n32 connections.\n\n"
    for size, label in ((20_000, "20 KB"), (400_000, "400 KB")):
        rows = [row for row in found.rows("sizes") if row["size"] == size]
        if rows:
            text += f"**{label}**\n\n" + side_table(found, "sizes", RATES, rows)
    return text + when(found, "sizes")


def tools(found: goals.Found) -> str:
    text = "## Tool calls\n\nAn HTTP tool behind a schema, 32 connections; neither peer has an HTTP tool to call.\n\n"
    return text + side_table(found, "tools", RATES) + when(found, "tools")


def memory(found: goals.Found) -> str:
    rows = [[row["side"], f"{row['calls']:,}", f"{row['resident_mb']}"] for row in found.rows("memory")]
    return "## Memory\n\n" + table(["", "after calls", "resident MB"], rows) + when(found, "memory")


def race(found: goals.Found) -> str:
    rows = []
    for row in found.rows("race"):
        refused = ", ".join(f"{count} × {status}" for status, count in row["refused"].items()) or "none"
        money = [f"${row[key]:.5f}" for key in ("billed_usd", "cap_usd", "overspent_usd")]
        rows.append([
            row["side"], "yes" if row["max_tokens"] else "no", str(row["admitted"]), refused, *money,
            f"{row['usable']:.0%}",
        ])  # fmt: skip
    text = "## The budget race\n\n200 calls at once against a budget that pays for 40. The upstream keeps every answer back until"
    text += " the burst has come to rest, and bills each call that reached it with what it may cost at most.\n\n"
    head = ["", "`max_tokens` sent", "admitted of 200", "refused", "billed", "cap", "over", "of the budget usable"]
    return text + table(head, rows) + when(found, "race")


def starts(found: goals.Found) -> str:
    rows = [[row["host"], row["what"], span(row, "wall_ms"), span(row, "cpu_ms")] for row in found.rows("starts")]
    text = "## Cold starts\n\nFrom the start of a fresh process to its first answer, its task already there. *echo* answers what it"
    text += (
        " got, on the same runtime: Lambda's own runtime client, the Functions runtime library, the on-prem server.\n\n"
    )
    text += "![Cold starts](benchmarks-starts.svg)\n\n"
    return text + table(["runtime", "", "ms by the clock", "ms of CPU, start to end"], rows) + when(found, "starts")


NAMES = {
    "journal": "calls in the task's journal", "tasks": "tasks stored", "tools": "tools granted",
    "open": "calls open on the task",
}  # fmt: skip


def grown(found: goals.Found) -> str:
    rows = []
    for row in found.rows("growth"):
        count = row.get("instructions")
        rows.append([
            NAMES[row["dimension"]], f"{row['size']:,}", row.get("failed") or f"{row['python_instructions']:,.0f}",
            f"{count / 1e6:.2f} M" if count else "–", f"{row['cpu_us']:,.0f}" if "cpu_us" in row else "–",
        ])  # fmt: skip
    text = "## Growth\n\nThe application in one process, SQLite, an upstream that answers at once. Instructions are counted, so a busy"
    text += " machine does not move them: Python's own by its monitoring, the processor's by callgrind (the difference of two"
    text += " counts of calls, up to 1,000 of a thing: larger ones take too long to fill under it). Microseconds are of CPU, the least of many batches.\n\n"
    text += "A configuration may hold 50,000 values, which some 7,000 tools fill: so there are no rows for 10,000.\n\n"
    head = ["", "", "Python instructions a call", "processor instructions a call", "CPU µs a call"]
    text += table(head, rows)
    for name, ratios in goals.growth(found).items():
        said = ", ".join(f"{ratio:.2f} × ({key.replace('_', ' ')})" for key, ratio in ratios.items())
        text += f"- {NAMES[name]}, largest over smallest: {said}\n"
    text += "\nCalls in flight lie in the task's head, which each hold and settle reads and writes whole: more of them, more bytes.\n"
    return text + "\n" + when(found, "growth")


SECTIONS = (
    ("rate", rates), ("latency", latency), ("decisions", decisions), ("rate", stations), ("first", first), ("streams", streams), ("asleep", asleep),
    ("many", many),
    ("sizes", sizes), ("tools", tools), ("memory", memory), ("race", race), ("starts", starts), ("growth", grown),
)  # fmt: skip


def plots(found: goals.Found) -> dict[str, str]:
    made: dict[str, str] = {}

    def made_of(name: str, title: str, unit: str, rows: Sequence[tuple[str, list[float]]]) -> None:
        made[f"docs/benchmarks-{name}.svg"] = bars(title, unit, [(label, a, b, c) for label, (a, b, c) in rows])

    if "found" in found.parts.get("rate", {}):
        rows = [row for row in found.rows("rate") if "failed" not in row]
        made_of(
            "rate",
            "Requests a second, 32 connections, one core",
            "more is better",
            [(r["side"], r["rps"]) for r in rows],
        )
        made_of("cpu", "CPU a call, 32 connections", "µs, less is better", [(r["side"], r["cpu_us"]) for r in rows])
        took = found.row("latency" if "found" in found.parts.get("latency", {}) else "rate", side=goals.PLAIN)[
            "stations_ms"
        ]
        made_of("stations", "Stations of a call", "ms, middle", [(name, [ms, ms, ms]) for name, ms in took.items()])
    if "found" in found.parts.get("starts", {}):
        rows = [row for row in found.rows("starts") if "failed" not in row]
        labelled = [(f"{row['host']}, {row['what']}", row["wall_ms"]) for row in rows]
        made_of("starts", "Process start to first answer", "ms, less is better", labelled)
    return made


def written(results: Row) -> dict[str, str]:
    """Give the text of each file that belongs to these results, by its path in the repository."""
    found = goals.Found(results)
    rounds = (
        "two rounds (and no warm-up)"
        if all(part.get("quick") for part in found.parts.values())
        else "three rounds or more"
    )
    text = (
        INTRO.format(rounds=rounds) + machine(results) + PEERS.format(agentgateway=results["versions"]["agentgateway"])
    )
    text += "## What was to be reached\n\n" + goal_table(results) + not_reached(results)
    for part, section in SECTIONS:
        if "found" in found.parts.get(part, {}):
            text += section(found)
    failed = [f"{name} ({part['failed']})" for name, part in found.parts.items() if "failed" in part]
    if failed:
        text += "## What did not run\n\n" + "; ".join(failed) + ".\n\n"
    return {"docs/benchmarks.md": text.rstrip("\n") + "\n", **plots(found)}


def write(results: Row) -> None:
    for path, text in written(results).items():
        (ROOT / path).write_text(text, "utf-8")


if __name__ == "__main__":
    write(json.loads((ROOT / "bench" / "results.json").read_text("utf-8")))
