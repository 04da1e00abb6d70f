"""`buspass stop`: what it sends, what it prints, and that only what is done is called done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from buspass import cli

STOP = {
    "id": "s_1f3870be274f6c49",
    "workflow": "returns",
    "reason": "refunds look wrong",
    "by": "ann",
    "at": "2026-11-20T12:40:01.311Z",
    "host": "onprem",
    "tasks": 100,
    "complete": True,
    "done_at": "2026-11-20T12:40:04.812Z",
    "lifted_at": None,
}
DONE = {**STOP, "in_flight": 0, "cut": 200, "drained_by": "2026-11-20T12:40:04.812Z", "unreached": []}


class Gateway:
    """What a gateway would answer, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: list[Any] = []

    def __call__(self) -> Gateway:
        return self

    def _next(self, *asked: Any) -> Any:
        self.asked.append(asked)
        return self.answers.pop(0)

    def get(self, path: str, query: Any = None) -> Any:
        return self._next("GET", path, query)

    def post(self, path: str, document: Any) -> Any:
        return self._next("POST", path, document)

    def delete(self, path: str, query: Any) -> Any:
        return self._next("DELETE", path, query)


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    gateway = Gateway()
    monkeypatch.setattr("buspass.cli.connection.Connection", gateway)
    return gateway


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--workflow", "returns"], {"workflow": "returns"}),
        (["--agent", "entra:7f"], {"agent": "entra:7f"}),
        (["--tool", "refund"], {"tool": "refund"}),
        (["--model", "openai/gpt-5"], {"model": "openai/gpt-5"}),
        (["--all"], {"all": True}),
    ],
)
def test_it_stops_what_was_named(gateway: Gateway, words: list[str], sent: dict[str, Any]) -> None:
    gateway.answers = [DONE]
    assert cli.main(["stop", *words, "--reason", "why"]) == 0
    assert gateway.asked == [("POST", "/v1/stops", {**sent, "reason": "why"})]


def test_it_prints_how_many_and_when_done(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers = [DONE, DONE]
    assert cli.main(["stop", "--workflow", "returns", "--reason", "why"]) == 0
    out = capsys.readouterr().out
    assert "100 tasks killed, 200 calls cut or ended, none in flight" in out
    assert "done at 2026-11-20T12:40:04.812Z" in out
    assert "buspass stop --lift s_1f3870be274f6c49" in out
    assert cli.main(["stop", "--workflow", "returns", "--reason", "why", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == DONE


def test_it_goes_on_until_it_is_complete(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers = [{**DONE, "complete": False, "tasks": 60}, DONE]
    assert cli.main(["stop", "--all", "--reason", "why"]) == 0
    assert "60 tasks killed, going on" in capsys.readouterr().err
    assert len(gateway.asked) == 2


def test_a_store_out_of_reach_is_no_success(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers = [{**DONE, "complete": False, "in_flight": 2, "unreached": ["azure"]}]
    assert cli.main(["stop", "--all", "--reason", "why"]) == 1
    out = capsys.readouterr().out
    assert "2 in flight, over by 2026-11-20T12:40:04.812Z" in out
    assert "not reached: the stores of azure" in out


def test_it_lifts(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    gateway.answers = [{**STOP, "lifted_at": "2026-11-21T08:00:00.000Z"}]
    assert cli.main(["stop", "--lift", STOP["id"], "--reason", "mended"]) == 0
    assert gateway.asked == [("DELETE", "/v1/stops/s_1f3870be274f6c49", {"reason": "mended"})]
    assert "workflow returns may go on" in capsys.readouterr().out


def test_it_lists(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    everything = {name: value for name, value in STOP.items() if name != "workflow"} | {"all": True, "complete": False}
    gateway.answers = [{"data": [STOP, everything]}, {"data": []}, {"data": []}, {"data": [STOP]}]
    assert cli.main(["stop", "--list"]) == 0
    out = capsys.readouterr().out
    assert "workflow returns" in out
    assert "everything" in out
    assert "not yet" in out
    assert cli.main(["stop", "--list"]) == 0
    assert capsys.readouterr().out == "nothing is stopped\n"
    assert cli.main(["stop", "--lifted"]) == 0
    assert capsys.readouterr().out == "nothing was lifted\n"
    assert cli.main(["stop", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"data": [STOP]}


@pytest.mark.parametrize(
    "words", [[], ["--all"], ["--all", "--reason", " "], ["--all", "--tool", "x", "--reason", "y"], ["--lift", "s_1"]]
)
def test_it_does_nothing_half_said(gateway: Gateway, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["stop", *words]) == 2
    assert gateway.asked == []
    assert capsys.readouterr().err
