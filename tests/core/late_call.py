"""A call of a child that is held, and settled after its hold was ended: for those who may still say what it used."""

from __future__ import annotations

from typing import Any

from buspass.ledger import Claim, Held, Outcome

HELD = 5_000
USED = 1_200
"""Micro-dollars: what is taken before, and what it comes to."""


async def hold(house: Any, task: str, call: str = "i_1") -> Held:
    """Begin it, for twenty seconds."""
    claim = Claim(task=task, call=call, kind="inference", name="plan", amounts={"cost": HELD, "calls": 1},
                  fence=1, deadline=house.clock.now() + 20_000, host=house.host.name)  # fmt: skip
    held = await house.ledger.hold(claim, 0)
    assert isinstance(held, Held)
    return held


async def settle(house: Any, held: Held, used: int = USED) -> None:
    """End it, too late."""
    facts = {"kind": "inference", "name": "plan", "state": "settled", "at": held.at, "host": house.host.name}
    await house.ledger.settle(held, Outcome(use={"cost": used, "calls": 1}), facts)
