"""Which targets a call may go to, in what order. Knows no health of its own: who is unavailable is handed in.

This release orders by priority, as written in buspass.yaml; configuration refuses the other strategies.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from buspass.config.settings import Model, Target
from buspass.errors import Problem


def name(target: Target) -> str:
    """What policy, records and headers call a target: `PROVIDER/MODEL`."""
    return f"{target.provider}/{target.model}"


def candidates(
    model: Model, permitted: AbstractSet[str] | None = None, unavailable: AbstractSet[str] = frozenset()
) -> tuple[Target, ...]:
    """The alias's targets that may be tried, best first.

    `permitted` are the names that policy's obligation leaves (None: all). Raises `denied` where it leaves none of them,
    `no_target_available` where all that it leaves are unavailable.
    """
    granted = tuple(target for target in model.targets if permitted is None or name(target) in permitted)
    if not granted:
        raise Problem("denied", f"policy permits none of the targets of '{model.alias}'", reasons=["targets"])
    ready = tuple(target for target in granted if name(target) not in unavailable)
    if not ready:
        raise Problem("no_target_available", f"no target of '{model.alias}' is available now", retry_after=1.0)
    return ready
