"""A child's closing statement, for a parent that lies in another store: signed by the host that closed it.

Owns the item `closing` in a child's partition. A later one (a call was settled late) takes its place.
Refuses to know whose key signs (`identity`): a check is handed in.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from buspass.errors import Problem
from buspass.ledger.accounts import amounts, text, whole
from buspass.ledger.delegations import Closing
from buspass.ports.clock import Clock
from buspass.ports.signer import Signer, SignerUnavailable
from buspass.ports.state import Applied, Equals, Item, OutcomeUnknown, Put, State, Unavailable, Value

KEY: Final = "closing"
TRIES: Final = 8

type CheckSignature = Callable[[str, bytes, str], Awaitable[bool]]
"""(kid, data, base64url signature) → did a host of the domain sign it?"""


async def stated(
    state: State,
    signer: Signer,
    clock: Clock,
    check: CheckSignature,
    task: str,
    link: Mapping[str, Value],
    closing: Closing,
) -> None:
    """Put the statement, unless it or a newer one stands. `link`: the child's parent and attempt.

    Raises Problem state_unavailable, conflict.
    """
    try:
        for _ in range(TRIES):
            found = await state.read(task, KEY)
            said: dict[str, Value] = {
                "task": task,
                "parent": text(link["task"]),
                "attempt": text(link["attempt"]),
                "status": closing.status,
                "used": dict(closing.used),
                "caps": dict(closing.caps),
                "as_of": closing.as_of,
            }
            if found is not None and all(found.get(name) == value for name, value in said.items()):
                return
            newer = None if found is None else await _genuine(found, check, task, link)
            if newer is not None and newer.as_of > closing.as_of:
                return  # whoever asks for this one was frozen since it looked
            number = whole(found["number"]) + 1 if found else 0
            said |= {"number": number, "at": clock.now(), "kid": text(signer.jwk["kid"])}
            signature = base64.urlsafe_b64encode(await signer.sign(_signed(said))).rstrip(b"=").decode()
            require = (Equals(("number",), number - 1),) if found else ()
            if isinstance(await state.apply(task, [Put(KEY, {**said, "signature": signature}, require)]), Applied):
                return
    except (Unavailable, OutcomeUnknown, SignerUnavailable) as error:
        raise Problem(
            "state_unavailable", f"the closing could not be stated ({error}); retry", retry_after=1
        ) from error
    raise Problem("conflict", "the closing is stated by others right now; retry", retry_after=0.5)


async def closed(state: State, check: CheckSignature, task: str, link: Mapping[str, Value]) -> Closing | None:
    """Read the statement; None where no host of the domain signed one for this very parent and attempt."""
    try:
        found = await state.read(task, KEY)
    except Unavailable as error:
        raise Problem("state_unavailable", f"the closing could not be read ({error}); retry", retry_after=1) from error
    return None if found is None else await _genuine(found, check, task, link)


async def _genuine(found: Item, check: CheckSignature, task: str, link: Mapping[str, Value]) -> Closing | None:
    meant = (task, link["task"], link["attempt"])
    if tuple(found.get(name) for name in ("task", "parent", "attempt")) != meant:
        return None
    if not await check(text(found["kid"]), _signed(found), text(found["signature"])):
        return None
    as_of = whole(found.get("as_of", 0))
    return Closing(status=text(found["status"]), used=amounts(found, "used"), caps=amounts(found, "caps"), as_of=as_of)


def _signed(item: Item | Mapping[str, Value]) -> bytes:
    """Give the bytes that the signature covers: all of it but the signature, as canonical JSON."""
    said = {name: value for name, value in item.items() if name != "signature"}
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
