"""`buspass run -- CMD…`: an agent as it is, in a task of its own, without the provider's key."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from buspass.cli.machine import data_directory
from buspass.cli.printable import money
from buspass.cli.stop import FAILED, USAGE, Stop

if TYPE_CHECKING:
    from buspass.cli.follow import Timeline
    from buspass.cli.serving import Gateway, Workload

EVERY: Final = 0.3
"""Seconds between two looks at the journal."""
LAST: Final = "last-run.json"
"""What `buspass init` reads, in BUSPASS_DATA."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="buspass run [--workflow W] [--cost X] [--observe] [--quiet] -- CMD…",
        help="run an agent as it is, governed",
        description="Starts a task, runs CMD with the gateway's address and the task's token in its environment and\n"
        "without any provider's key, shows what it does, ends the task and prints the bill. The exit code is CMD's.\n"
        "The gateway is the one at BUSPASS_URL; where none answers, one is started: with ./buspass.yaml, or for the\n"
        "providers whose keys are set (OPENAI_API_KEY, ANTHROPIC_API_KEY), at most $1.00 unless --cost says more.",
        epilog="examples:\n  buspass run -- python agent.py\n  buspass run --cost 5 --quiet -- claude\n",
    )
    parser.add_argument("--workflow", metavar="W", help="the kind of task; may be left out where there is one")
    parser.add_argument("--cost", metavar="X", type=_usd, help="USD at most; it can only narrow the workflow's")
    parser.add_argument(
        "--observe", action="store_true", help="without a file: refuse nothing, note what would have been refused"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but the bill")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD…", help="the agent")
    parser.set_defaults(run=run)


def _usd(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = math.nan
    if not 0 < amount <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: a number of USD, such as 0.50")
    return amount


def run(arguments: argparse.Namespace) -> int:
    """Run the agent. Raises Stop."""
    from buspass.cli import agent, serving  # noqa: PLC0415 - httpx costs a tenth of a second

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise Stop("which command? buspass run -- CMD…", USAGE)
    if task := os.environ.get("BUSPASS_TASK"):
        raise Stop(f"this is inside `buspass run` already, in task {task}: start the command by itself", USAGE)
    agent.found(command, os.environ)
    agent.hide()
    # a stop before the agent is there must still end gateway and task
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with serving.gateway(arguments.cost, observe=arguments.observe) as gateway:
        run = Run(gateway, arguments.workflow, arguments.cost, quiet=arguments.quiet)
        return run.governed(command)


class Run:
    """One command in one task. Raises Stop where the task is refused."""

    def __init__(self, gateway: Gateway, workflow: str | None, cost: float | None, *, quiet: bool) -> None:
        from buspass.cli.serving import Workload  # noqa: PLC0415

        self._gateway, self._quiet, self._narrowed = gateway, quiet, cost is not None
        self._workload: Workload = Workload(gateway.url)
        started = self._start(workflow, cost)
        self.task: Mapping[str, Any] = started["task"]
        self._token: str = started["token"]
        self._lasts: int = started["expires_in"]
        self._kept: list[str] = []

    def governed(self, command: list[str]) -> int:
        """Run the command to its end, end the task, print the bill, and give the command's exit code."""
        from buspass.cli import agent, environment  # noqa: PLC0415
        from buspass.cli.follow import Timeline  # noqa: PLC0415

        gateway, name = self._gateway, str(self.task["id"])
        environ = environment.governed(
            os.environ, url=gateway.url, task=name, token=self._token, secrets=gateway.secrets
        )
        timeline = Timeline(self.task, self._trace, self._say)
        self._introduce(sorted(environment.taken(os.environ, gateway.secrets)))
        try:
            code = agent.attend(command, environ, lambda: self._look(timeline), EVERY)
        except BaseException as error:
            with suppress(Stop):
                self._end("kill", f"{type(error).__name__} before the agent ended")
            raise
        self._finish(timeline, code)
        if timeline.tally.exhausted:
            more = "--cost X" if gateway.providers or self._narrowed else "the workflow's budget in buspass.yaml"
            self._say(f"buspass · a call did not fit the budget: {more} gives more")
        _remember(command, self._gateway, self.task, timeline)
        print(timeline.tally.bill(name, code), file=sys.stderr)
        return code

    def _finish(self, timeline: Timeline, code: int) -> None:
        """End the task with the agent's exit code. The agent has ended by itself: no failure here changes that."""
        try:
            self._end(*(("complete", "exit 0") if code == 0 else ("kill", _reason(code))))
            timeline.look()
        except Stop as stop:
            print(f"buspass · {stop}", file=sys.stderr)
        for line in self._kept:
            print(line, file=sys.stderr)

    # ── what is said ────────────────────────────────────────────────────────────────────────────────────────────

    def _introduce(self, taken: list[str]) -> None:
        limits = self.task["budget"]["limits"]
        cost = f"{money(limits['cost'])}, " if "cost" in limits else ""
        life = _lasting(limits["wall"])
        self._say(f"buspass · task {self.task['id']} · {self.task['workflow']} · {cost}{life}")
        if taken:
            self._say(f"buspass · kept from the agent: {', '.join(taken)}")
        if self._lasts < limits["wall"] - 60:
            self._say(
                f"buspass · the token ends after {_lasting(self._lasts)}, before the task: "
                "set the workflow's token_ttl to its wall"
            )

    def _look(self, timeline: Timeline) -> None:
        try:
            timeline.look()
        except Stop as stop:  # the agent goes on, and meets the same trouble by itself
            if (line := f"buspass · {stop}") not in self._kept:
                self._kept.append(line)

    def _say(self, line: str) -> None:
        from buspass.cli.agent import is_drawn_on  # noqa: PLC0415

        if not self._quiet and not is_drawn_on():
            print(line, file=sys.stderr, flush=True)

    # ── the gateway ─────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, workflow: str | None, cost: float | None) -> Any:
        body: dict[str, Any] = {"workflow": workflow or self._only()}
        if cost is not None and not self._gateway.providers:
            body["budget"] = {"cost": cost}
        return self._ask("POST", "/v1/tasks", self._workload.token(), body)

    def _only(self) -> str:
        """The gateway's only workflow: it names them all to whoever names none."""
        from buspass.cli.serving import answered  # noqa: PLC0415

        refused = answered(self._gateway.url, "POST", "/v1/tasks", self._workload.token(), {})
        rows = refused.get("errors") or [{}]
        known = rows[0].get("allowed") or []
        if refused.get("code") == "invalid_request" and known:
            if len(known) == 1:
                return str(known[0])
            raise Stop(f"which workflow? --workflow is one of {', '.join(known)}", USAGE)
        return ""  # the start itself will be refused, and says why

    def _end(self, verb: str, reason: str) -> None:
        self._ask("POST", f"/v1/tasks/{self.task['id']}/{verb}", self._token, {"reason": reason})

    def _trace(self, query: Mapping[str, str | int]) -> Any:
        # of a killed task its own token reads nothing, and a workload's token may be over while the task is not
        path = f"/v1/tasks/{self.task['id']}/trace"
        try:
            return self._ask("GET", path, self._token, query=query)
        except Stop:
            return self._ask("GET", path, self._workload.token(), query=query)

    def _ask(
        self,
        method: str,
        path: str,
        token: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
    ) -> Any:
        from buspass.cli.connection import said  # noqa: PLC0415
        from buspass.cli.serving import answered  # noqa: PLC0415

        answer = answered(self._gateway.url, method, path, token, body, query)
        if "code" in answer and "detail" in answer:
            raise Stop(said(answer), FAILED)
        return answer


def _lasting(seconds: float) -> str:
    """Give a time as people say it."""
    if seconds < 120:
        return f"{seconds:g} s"
    return f"{round(seconds / 60, 1):g} min" if seconds < 7200 else f"{round(seconds / 3600, 1):g} h"


def _reason(code: int) -> str:
    if code <= 128:
        return f"exit {code}"
    with suppress(ValueError):
        return f"exit {code}, {signal.Signals(code - 128).name}"
    return f"exit {code}"


def _remember(command: list[str], gateway: Gateway, task: Mapping[str, Any], timeline: Timeline) -> None:
    """Keep what was used for `buspass init`: where there was a file, there is nothing to write."""
    if not gateway.providers:
        return
    tally = timeline.tally
    used = {provider for provider, _ in tally.models.values()}
    document = {
        "folder": str(Path.cwd()),
        "command": shlex.join(command),
        "task": task["id"],
        "thoughts": tally.thoughts,
        "cost": tally.cost,
        "held": tally.held,
        "models": tally.models,
        "functions": tally.functions,
        "providers": [
            {"name": each.name, "base_url": each.base_url, "secret": each.secret, "auth": each.auth}
            for each in gateway.providers
            if each.name in used
        ],
    }
    with suppress(OSError):  # a full disk must not hide the agent's exit code
        (data_directory() / LAST).write_text(json.dumps(document), encoding="utf-8")
