"""Who calls, and whose task it may see: a task's own token, a key, the workload that started it, or an operator.

Owns "Who may" of api.md. Another's task is `not_found`: that it exists is nobody else's business. Fails closed.
"""

from __future__ import annotations

import hmac
from typing import Final

from msgspec import Struct

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.identity.jws import Untrusted, read
from buspass.identity.keys import PREFIX
from buspass.identity.tokens import TaskClaims
from buspass.model import Principal
from buspass.tasks import View

OPERATOR: Final = "bpo_"
"""How an operator key begins."""


class TaskCaller(Struct, frozen=True, kw_only=True):
    """The bearer of a task token, or of a key in its standing task: then `key` is true, and it reads and calls only."""

    claims: TaskClaims
    key: bool = False


class WorkloadCaller(Struct, frozen=True, kw_only=True):
    """A workload, proven by OIDC."""

    principal: Principal


class OperatorCaller(Struct, frozen=True, kw_only=True):
    """A person that `operators:` names, or the holder of a loopback host's operator key."""

    name: str


type Caller = TaskCaller | WorkloadCaller | OperatorCaller


async def claims_of(house: House, credential: str, session: str = "") -> TaskClaims:
    """Give the claims of a task token, or those of the standing task of a key's session. Raises Problem."""
    if not credential.startswith(PREFIX):
        return await house.tokens.verify(credential)
    from buspass.standing import claims_by_key  # noqa: PLC0415 - a cold start with a task's token is spared keys

    return await claims_by_key(house, credential, session)


async def caller(house: House, token: str, session: str = "") -> Caller:
    """Prove who calls; `session` divides a key's calls. Raises Problem unauthenticated."""
    if token.startswith(OPERATOR):
        if house.operator_key and hmac.compare_digest(token.encode(), house.operator_key.encode()):
            return OperatorCaller(name="operator.key")
        raise Problem("unauthenticated", "this operator key is not this host's, or the host is not on loopback")
    if token.startswith(PREFIX):
        return TaskCaller(claims=await claims_of(house, token, session), key=True)
    if _meant_as_task_token(token, house.settings.issuer):
        return TaskCaller(claims=await house.tokens.verify(token))
    if house.settings.operators:
        try:
            return OperatorCaller(name=(await house.oidc.operator(token, house.settings.operators)).name)
        except Problem as problem:
            if problem.code not in {"unauthenticated", "denied"}:
                raise
    return WorkloadCaller(principal=await house.oidc.workload(token))


def recognised(token: str) -> bool:
    """Say whether this has the form of something that `caller` may take: a key, an operator key, a JWT."""
    return token.startswith((PREFIX, OPERATOR)) or token.count(".") == 2


async def visible(house: House, who: Caller, task: str, *, killed: bool = False) -> View:
    """Give the task if this caller may see it. Raises Problem not_found; for a task's token task_killed, fenced.

    A kill makes all the task's tokens useless at once, but for one thing: `killed` says that the kill itself may be
    repeated.
    """
    hidden = Problem("not_found", "there is no such task that you may see")
    if isinstance(who, TaskCaller) and who.claims.task != task:
        raise hidden
    view = await house.tasks.look(task)
    if isinstance(who, WorkloadCaller) and who.principal.name != view.task.principal.name:
        raise hidden
    if isinstance(who, TaskCaller):
        if view.head["fence"] != who.claims.fence:
            raise Problem("fenced", "another worker has resumed this task; this token's calls are over")
        if view.head["status"] == "killed" and not killed:
            raise Problem("task_killed", "the task was killed; start a new one if you still may")
    return view


def fence_of(who: Caller) -> int | None:
    """Give the fence that a change by this caller is bound to: a task token's. A key changes nothing."""
    return who.claims.fence if isinstance(who, TaskCaller) and not who.key else None


def _meant_as_task_token(token: str, issuer: str) -> bool:
    """Say whether this is one of `issuer`'s task tokens, or nothing that a workload or an operator could send.

    Its `typ` alone says nothing: an issuer of workloads may follow RFC 9068 too.
    """
    try:
        given = read(token)
    except Untrusted:
        return True
    return given.typ == "at+jwt" and (given.claims.get("iss") == issuer or "buspass" in given.claims)
