"""What one check found: about what, how it stands, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from msgspec import Struct

type Status = Literal["ok", "warning", "failed", "unknown"]

FIRST: Final = frozenset({"configuration", "host"})
"""Without these nothing else can be asked: that is wrong usage, not a part that fails."""


class Finding(Struct, frozen=True, kw_only=True):
    """`about` names the part (an issuer, a provider, a URL); `what` never holds a secret; `remedy` is what to do.

    `unknown`: it could not be asked. Only `failed` makes a host unfit.
    """

    check: str
    about: str
    status: Status
    what: str
    remedy: str = ""


def good(check: str, about: str, what: str) -> Finding:
    """Give the finding of a part that works."""
    return Finding(check=check, about=about, status="ok", what=what)


def warned(check: str, about: str, what: str, remedy: str) -> Finding:
    """Give the finding of a part that works, and will surprise somebody."""
    return Finding(check=check, about=about, status="warning", what=what, remedy=remedy)


def refused(check: str, about: str, what: str, remedy: str) -> Finding:
    """Give the finding of a part that does not work."""
    return Finding(check=check, about=about, status="failed", what=what, remedy=remedy)


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing failed; 1: a part failed; 2: the configuration can't be used at all."""
    failed = {each.check for each in findings if each.status == "failed"}
    return 2 if failed & FIRST else 1 if failed else 0
