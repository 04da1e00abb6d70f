"""Why a verb stops: a sentence for the user and an exit code. Knows no verb."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
"""Refused by the gateway, or it failed."""
USAGE: Final = 2
"""The command or the configuration is wrong."""
INTERRUPTED: Final = 130
"""Ctrl-C: 128 + SIGINT, as shells do."""


class Stop(Exception):  # noqa: N818 - not an error in the program
    """Ends a verb. The text says what is wrong and what to do; `status` is the exit code."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status
