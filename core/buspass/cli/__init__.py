"""The command line: one file per verb. Owns exit codes and how a failure is said; refuses to do a verb's work.

A verb's module offers `add(subparsers)` and `run(arguments) -> int` and imports what is heavy only when it runs, so
that `buspass --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from buspass.cli import check, demo, doctor, init, key, models, observed, run, spend, stops, task, trace, up
from buspass.cli.printable import printable
from buspass.cli.stop import FAILED, INTERRUPTED, OK, USAGE, Stop
from buspass.errors import ConfigError

__all__ = ["main"]

VERBS: Final = (up, run, init, check, doctor, demo, key, models, observed, stops, task, trace, spend)
LATER: Final = (
    *("action", "import", "login"),
    *("policy", "top"),
)
"""Verbs that are planned: refused by name, never as a typing error."""

DESCRIPTION: Final = "The cage that AI agents live in: one governed path for every model and tool call."
EPILOG: Final = """\
examples:
  buspass up                        serve ./buspass.yaml, or an example with simulated models
  buspass run -- python agent.py    an agent as it is, governed; prints its bill
  buspass check buspass.yaml        say everything that is wrong with a configuration
  buspass doctor                    ask this host's every part whether it works
  buspass demo returns              the return-exception agent over three hosts
  buspass demo procurement          an agent and a dead vendor, with and without Buspass
  buspass task list --status open   who is at work, and what they may still spend
  buspass stop --workflow W --reason R   end all its tasks now, and let none begin
  buspass trace t_abc               what a task thought and did, and what it cost

environment:
  BUSPASS_CONFIG   the configuration of `up`
  BUSPASS_DATA     keys and stores (default ~/.local/share/buspass)
  BUSPASS_HOST     which of the configuration's hosts this one is
  BUSPASS_SECRETS  where secrets lie: a directory, or a cloud's store; else they are variables of their own names
  BUSPASS_URL      the gateway to ask (default http://127.0.0.1:8700): of run, key, observed, stop, task, trace,
                   spend and latency
  BUSPASS_TOKEN    an operator's token for it, instead of BUSPASS_DATA/operator.key
  BUSPASS_DEBUG=1  shows the stack trace of a failure

exit codes (`run`: the command's own): 0 done, 1 refused or failed, 2 wrong usage or configuration, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and give its exit code; `argv` without the program's name, by default the process's own."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in LATER:
        _say(f"not available yet: buspass {words[0]}; see buspass --help for what is")
        return USAGE
    try:
        code = _run(words)
        sys.stdout.flush()  # here and not at exit, where nobody could catch that the reader is gone
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # the reader, `head` say, has seen enough; Python must not complain when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _run(words: list[str]) -> int:
    try:
        arguments = parser().parse_args(words)
        code: int = arguments.run(arguments)
    except SystemExit as done:  # argparse has said what is wrong, or has helped
        return done.code if isinstance(done.code, int) else OK
    except Stop as stop:
        return _failed(str(stop), stop.status)
    except ConfigError as error:
        return _failed("\n".join(error.problems), USAGE)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - what nobody foresaw: a user gets one line, not our stack
        return _failed(f"buspass failed: {type(error).__name__}: {error} (BUSPASS_DEBUG=1 shows where)", FAILED)
    return code


def parser() -> argparse.ArgumentParser:
    """Give the parser with every verb."""
    root = argparse.ArgumentParser(
        prog="buspass",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = root.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return root


def _failed(text: str, status: int) -> int:
    if os.environ.get("BUSPASS_DEBUG") == "1":
        traceback.print_exc()
    _say(text)
    return status


def _say(text: str) -> None:
    print("\n".join(printable(line) for line in text.splitlines()), file=sys.stderr)
