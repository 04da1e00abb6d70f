"""Which targets a call may go to, in what order. Knows no health of its own: who is unavailable is handed in.

By priority, as written in buspass.yaml, or by weight; configuration refuses the other strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from buspass.config.settings import Model, Target
from buspass.errors import Problem


def name(target: Target) -> str:
    """What policy, records and headers call a target: `PROVIDER/MODEL`."""
    return f"{target.provider}/{target.model}"


def candidates(
    model: Model,
    permitted: AbstractSet[str] | None = None,
    unavailable: AbstractSet[str] = frozenset(),
    *,
    draw: int = 0,
) -> tuple[Target, ...]:
    """The alias's targets that may be tried, best first.

    `permitted` are the names that policy's obligation leaves (None: all). `draw` decides where the strategy is
    `weighted`: a random integer from 0 to 2ᵏ - 1, k so large that 2ᵏ dwarfs the weights' product; the same one gives
    the same order. Raises `denied` where policy leaves none of them, `no_target_available` where all that it leaves are
    unavailable.
    """
    if permitted is None and not unavailable and model.strategy != "weighted" and model.targets:
        return model.targets
    granted = tuple(target for target in model.targets if permitted is None or name(target) in permitted)
    if not granted:
        raise Problem("denied", f"policy permits none of the targets of '{model.alias}'", reasons=["targets"])
    ready = tuple(target for target in granted if name(target) not in unavailable)
    if not ready:
        raise Problem("no_target_available", f"no target of '{model.alias}' is available now", retry_after=1.0)
    return _drawn(ready, draw) if model.strategy == "weighted" else ready


def _drawn(targets: Sequence[Target], draw: int) -> tuple[Target, ...]:
    """Draw one after the other without putting it back, so that failover is shared by weight too; those of 0 last."""
    left = list(targets)
    order: list[Target] = []
    while total := sum(target.weight for target in left):
        draw, point = divmod(draw, total)
        chosen = _at(left, point)
        left.remove(chosen)
        order.append(chosen)
    return (*order, *left)


def _at(targets: Sequence[Target], point: int) -> Target:
    for target in targets:
        point -= target.weight
        if point < 0:
            return target
    raise AssertionError("unreachable: the point lies below the sum of the weights")  # pragma: no cover
