"""The timeline: thoughts, the actions they caused, refusals, money; from a trace as the gateway gives it."""

import argparse
import json
from datetime import UTC, datetime, timedelta

import pytest

from buspass.cli import trace
from buspass.cli.printable import cut, money, printable, table
from buspass.cli.timeline import render

BEGAN = datetime(2026, 11, 20, 9, 0, 0, tzinfo=UTC)
TASK = {
    "id": "t_abc",
    "workflow": "return-exception",
    "status": "completed",
    "principal": {"identity": "workloads", "agent": "coordinator"},
    "subject": {"type": "customer", "id": "C-1042"},
    "created_at": BEGAN.isoformat(),
    "budget": {
        "limits": {"cost": 0.5, "wall": 600},
        "spent": {"cost": 0.0123, "tokens": 4321, "model_calls": 1, "tool_calls": 2},
        "held": {"cost": 0},
    },
}


def row(kind, seconds=0.0, **members):
    at = (BEGAN + timedelta(seconds=seconds)).isoformat()
    return {
        "id": f"{kind}-{seconds}",
        "kind": kind,
        "host": "azure",
        "at": at,
        "ms": 12,
        "cost": 0,
        "left": {},
    } | members


def inference(seconds, **members):
    return row("inference", seconds, **({"name": "plan", "status": "succeeded", "id": "i1"} | members))


def lines(*rows, **task):
    return render({"task": TASK | task, "records": list(rows)})[2:-1]


def test_a_thought_its_action_and_a_refusal_stand_together():
    shown = render(
        {
            "task": TASK,
            "records": [
                row("lifecycle", operation="start", reason="for C-1042"),
                inference(
                    0.5, thought="I look first.\nMore.", target="sim/p-1", cost=0.001234, left={"cost": 0.498766}, ms=40
                ),
                row("thought", 0.6, id="t1", thought="Something else."),
                row("action", 0.7, name="get", arguments={"id": "C-1"}, status="succeeded", cause="i1", host="aws"),
                row("refusal", 0.8, name="refund", code="prerequisite_missing", detail="ask legal", cause="i1"),
            ],
        }
    )
    assert shown == [
        "t_abc  return-exception  completed",
        "for customer:C-1042 by workloads:coordinator",
        "   0.000s  azure  ▶ start: for C-1042",
        "   0.500s  azure  ● “I look first.”",
        "                    plan → sim/p-1  40 ms  $0.001234  left $0.498766",
        '   0.700s  aws       └ get {"id": "C-1"}  succeeded  12 ms',
        "   0.800s  azure     ✗ refund refused: prerequisite_missing",
        "                       ask legal",
        "   0.600s  azure  ○ “Something else.”",
        "spent $0.0123 of $0.50, 4,321 tokens, 1 model call, 2 tool calls",
    ]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({}, "● (thought not logged)"),
        ({"erased": True}, "● (thought erased)"),
        ({"thought": ""}, "● (no words)"),
        ({"thought": " \n", "tool_calls": [["c1", "refund", "{}"]]}, "● (no words, asks for refund)"),
        ({"thought": "x" * 61}, f"● “{'x' * 59}…”"),
        ({"thought": "x" * 60}, f"● “{'x' * 60}”"),
        ({"thought": "\n\n  second line is first  "}, "● “second line is first”"),
    ],
)
def test_a_thought_is_its_first_line_or_says_why_it_is_not_there(members, said):
    assert lines(inference(0, **members))[0].endswith("azure  " + said)


def test_a_failed_and_estimated_inference_says_so():
    failed = inference(0, status="unknown", estimated=True, cost=0.02, code="upstream_timeout", detail="no answer")
    assert [line.strip() for line in lines(failed)[1:]] == [
        "plan  unknown  12 ms  $0.02 (estimated)",
        "✗ upstream_timeout: no answer",
    ]


def test_without_a_limit_on_money_another_accounts_rest_is_shown():
    assert lines(inference(0, left={"tokens": 12000}))[1].endswith("$0.00  left 12,000 tokens")


def test_an_action_without_a_known_cause_stands_by_itself():
    (line,) = lines(row("action", 1, name="get", status="failed", cause="gone", arguments={}))
    assert line.endswith("azure  ▪ get {}  failed  12 ms")


@pytest.mark.parametrize(
    ("members", "said"),
    [({}, "(arguments not logged)"), ({"erased": True}, "(arguments erased)"), ({"arguments": {}}, "{}")],
)
def test_an_actions_arguments_are_shown_where_they_were_kept(members, said):
    assert lines(row("action", name="get", state="queued", **members)) == [
        f"   0.000s  azure  ▪ get {said}  queued  12 ms"
    ]


def test_long_arguments_give_way_to_status_and_time():
    arguments = {"reason": "y" * 300}
    for host in ("a", "a-very-long-name-of-a-host"):
        shown = lines(
            inference(0, host=host),
            row("action", 1, name="refund", arguments=arguments, status="succeeded", cause="i1"),
        )
        assert shown[-1].endswith("…  succeeded  12 ms")
        assert len(shown[-1]) == 100


def test_nothing_is_wider_than_a_hundred_columns():
    wide = "word " * 100
    shown = render(
        {
            "task": TASK | {"workflow": "w" * 200},
            "records": [
                inference(123456, name="m" * 80, target="t" * 80, thought=wide, host="h" * 40),
                row("action", 123457, name="n" * 120, arguments={"a": wide}, cause="i1", code="x", detail=wide),
                row("refusal", 1, name="n" * 120, code="denied", detail=wide),
                row("lifecycle", 2, operation="kill", reason=wide),
            ],
        }
    )
    assert max(map(len, shown)) == 100


def test_a_terminal_is_never_given_what_it_would_act_on():
    hostile = "\x1b[2J\x1b]0;owned\x07 \u202eevil\r\b"
    shown = render(
        {
            "task": TASK | {"subject": {"type": "customer", "id": hostile}},
            "records": [
                inference(0, thought=hostile, name=hostile),
                row("action", 1, name=hostile, arguments={hostile: hostile}, cause="i1"),
                row("refusal", 2, name=hostile, code="denied", detail=hostile),
                row("lifecycle", 3, operation=hostile, reason=hostile),
                row(hostile, 4),
            ],
        }
    )
    assert all(line.isprintable() for line in shown)
    assert any("\\x1b[2J" in line for line in shown)


def test_a_circle_of_causes_is_broken_and_a_long_chain_is_shown():
    circle = [row("thought", 0, id="a", cause="b", thought="1"), row("thought", 1, id="b", cause="a", thought="2")]
    assert [line[-3:] for line in lines(*circle)] == ["“1”", "“2”"]
    chain = [row("thought", n, id=f"t{n}", cause=f"t{n - 1}", thought="deep") for n in range(3000)]
    assert len(lines(*chain)) == 3000


def test_a_credit_and_a_kind_of_tomorrow_are_shown_too():
    rows = [row("credit", 0, name="plan", cost=-0.002, left={"cost": 0.4}), row("seal", 1, name="root")]
    assert [line[18:] for line in lines(*rows)] == ["± credit for plan: -$0.002  left $0.40", "· seal root"]


def test_a_task_that_did_nothing_has_a_title_and_a_bill():
    assert len(render({"task": TASK | {"subject": None}, "records": []})) == 3


@pytest.mark.parametrize(
    ("dollars", "shown"),
    [
        (0, "$0.00"),
        (0.5, "$0.50"),
        (0.000001, "$0.000001"),
        (1234.5, "$1234.50"),
        (-0.25, "-$0.25"),
        (0.1234567, "$0.123457"),
    ],
)
def test_money_keeps_its_millionths_and_at_least_two_decimals(dollars, shown):
    assert money(dollars) == shown


def test_text_is_cut_with_a_sign():
    assert [cut("abcdef", 6), cut("abcdef", 5), cut("a\nb", 9)] == ["abcdef", "abcd…", "a\\nb"]
    assert printable("naïve ✓ 漢字") == "naïve ✓ 漢字"


def test_a_table_is_cut_in_its_flexible_columns_alone():
    shown = table(
        ("ID", "WORKFLOW", "FOR"), [("t_" + "x" * 24, "w" * 90, "f" * 70), ("t_1", "w", "f")], flexible=(1, 2)
    )
    assert max(map(len, shown)) == 100
    assert shown[1].startswith("t_" + "x" * 24 + "  www")
    assert table(("A",), [("x" * 120,)], flexible=(0,)) == ["A", "x" * 99 + "…"]


def test_a_long_trace_is_fetched_page_by_page(monkeypatch, capsys):
    pages = {None: (["a", "b"], "2.rec:b"), "2.rec:b": (["c"], None)}

    def get(self, path, query=None):
        rows, cursor = pages[(query or {}).get("cursor")]
        return {"task": {"id": "t_1"}, "records": rows, "next_cursor": cursor}

    monkeypatch.setattr("buspass.cli.connection.Connection.get", get)
    assert trace.run(argparse.Namespace(words=["--json", "t_1"], json=False)) == 0
    assert json.loads(capsys.readouterr().out) == {"task": {"id": "t_1"}, "records": ["a", "b", "c"]}
