"""Bodies of requests, changed at random places: what a look must judge as the tables do."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every member and item, with what holds it."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        each = pending.pop()
        keys = list(each) if isinstance(each, dict) else range(len(each)) if isinstance(each, list) else ()
        found += [(each, key) for key in keys]
        pending += [each[key] for key in keys]
    return found


def mutated(chance: random.Random, body: Any, names: Sequence[str], values: Sequence[Any]) -> Any:
    """The body with up to two members added (of these names), left out or changed (to these values)."""
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        holder, key = chance.choice(places(body))
        match chance.randrange(3):
            case 0 if isinstance(holder, dict):
                holder[chance.choice(names)] = copy.deepcopy(chance.choice(values))
            case 1:
                del holder[key]
            case _:
                holder[key] = copy.deepcopy(chance.choice(values))
        if not places(body):
            break
    return body
