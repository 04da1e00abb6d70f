"""Station 11: the finished call's record, real usage in place of its hold, and what the answer tells of it.

Owns what is kept beside the record (payload, outcome), and what a settle sets off: a suspension, a seal, a warning.
Refuses to know how the call went: its Ending says that.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from msgspec import Struct

from buspass.calls import repetition, soft
from buspass.calls.call import Call, Ending, remaining
from buspass.calls.house import House
from buspass.calls.outcomes import keep
from buspass.calls.screening import redacted
from buspass.errors import Problem
from buspass.journal import SEAL_EVERY, Erased
from buspass.jsontext import written
from buspass.ledger import Held
from buspass.model import MICRO
from buspass.ports.state import Item, Value
from buspass.tasks import Task, View


class Admitted(Struct, frozen=True, kw_only=True):
    """A call that passed stations 4 to 8: the hold stands. `level`: what of its payload is logged."""

    view: View
    held: Held
    level: str


async def settle(house: House, call: Call, admitted: Admitted, ending: Ending) -> dict[str, str]:
    """Settle, and give the answer's headers. Raises Problem: then it stays charged as it was held."""
    task, held, ended = admitted.view.task, admitted.held, house.clock.now()
    try:
        key: bytes | None = house.vault.unwrap(task.id, task.wrapped_key)
    except Erased:
        key = None
    record: dict[str, Value] = {
        "kind": call.kind,
        "name": call.name,
        "host": house.host.name,
        "at": held.at,
        "ended": ended,
        "cause": call.cause,
        "asked": house.vault.mark(key, call.asked) if call.keyed and key is not None else "",
        "fence": held.claim.fence,
        "revision": house.settings.revision,
        **ending.facts,
    }
    if not call.enforcement.on:
        record |= call.enforcement.facts()
    # What can't be kept beside the record must not stop it: the call was made, and its hold must not be left.
    if admitted.level == "metadata" and ending.payload and key is not None:
        digest = house.vault.commit(key, _name(task.id, call), written(ending.payload))
        record["digests"] = {"payload": digest}
    elif admitted.level != "none" and ending.payload and key is not None:
        with suppress(Problem):
            record |= await _logged(house, call, admitted, ending, key)
    if call.keyed:
        with suppress(Problem):
            await keep(house, call, task, ending)
    outcome = repetition.remembered(house, call, task, held, ending) if call.watched else ending.outcome
    head = await house.ledger.settle(held, outcome, record)
    house.tasks.saw(task.id, head)
    shares = soft.past(head, call.workflow.soft)
    if shares or _ends(call, head, ending):
        await _set_off(house, call, task, head, ending, shares)
    headers = {
        "Buspass-Task": task.id,
        "Buspass-Call": call.id,
        **ending.headers,
        "Buspass-Cost": f"{(outcome.use.get('cost', 0) + ending.also) / MICRO:.6f}",
        "Buspass-Budget-Remaining": remaining(head, ended),
    }
    if shares:
        headers["Buspass-Budget-Soft"] = soft.shown(shares)
    return headers if call.enforcement.on else {**headers, **call.enforcement.headers()}


def _ends(call: Call, head: Mapping[str, Any], ending: Ending) -> bool:
    """Whether something is to be suspended, sealed or given back: after one settle of some 250."""
    if head["status"] != "open" or head["entries"] - head["sealed"] >= SEAL_EVERY:
        return True
    return bool(ending.facts.get("overrun")) and call.enforcement.on


async def _set_off(house: House, call: Call, task: Task, head: Item, ending: Ending, shares: Mapping[str, int]) -> None:
    """Suspend after an overrun; seal when it is time, and what ended after its task did; warn of a soft limit."""
    from buspass.closing import give_back_now  # noqa: PLC0415 - after few calls, and so no cold start's first
    from buspass.interventions import suspend  # noqa: PLC0415

    with suppress(Problem):  # the answer is paid for; what is not sealed now is sealed at the next occasion
        if ending.facts.get("overrun") and call.enforcement.on:
            await suspend(house, task.id, "overrun")
        elif head["status"] != "open":
            await house.sealer.seal(task.id)
            await give_back_now(house, task.id, head)
        elif _ends(call, head, ending):
            await house.sealer.seal_due(task.id, head)
        await soft.warn(house, task, call.workflow.soft, shares, head)


async def _logged(house: House, call: Call, admitted: Admitted, ending: Ending, key: bytes) -> dict[str, Value]:
    """Keep a payload, before the record that commits to it: masked where it is logged `redacted`, else as it is.

    Gives the record's part.
    """
    payload = ending.payload
    if admitted.level == "redacted":
        payload = redacted(payload, call.workflow.personal_data)
    data, name = written(payload), _name(admitted.view.task.id, call)
    part: dict[str, Value] = {"digests": {"payload": house.vault.commit(key, name, data)}, "payload": name}
    await house.vault.put(key, name, data)
    return part


def _name(task: str, call: Call) -> str:
    return f"{task}/payload/{call.id}"
