"""`/v1/tasks…` and `/oauth2/token`."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from datetime import date
from typing import Any, Final
from urllib.parse import parse_qs

from buspass.abroad import JWT_BEARER, Handed, hand_over
from buspass.admitting import admit
from buspass.beginning import Started
from buspass.callers import caller
from buspass.calls.house import House
from buspass.delegation import begin_child
from buspass.errors import Problem
from buspass.http.asgi import Request, Response
from buspass.http.exchange import JSON, answer, bearer, body, document, idempotency_key, session
from buspass.lifecycle import Lifecycle
from buspass.reading import CHECKPOINT_BYTES, Reading
from buspass.reading import document as shown
from buspass.tasks.lifecycle import Status, Verb
from buspass.tools.schema import parse_json

STATUSES: Final[tuple[Status, ...]] = ("open", "suspended", "completed", "killed", "expired")
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ETAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_ETAGS: Final = re.compile(rf"(?:{_ETAG.pattern})?(?:[ \t]*,[ \t]*(?:{_ETAG.pattern})?)*")
TRACED: Final = 1000
"""Records in one page of a journal at most."""
ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a token's type (RFC 8693)
JWT: Final = "urn:ietf:params:oauth:token-type:jwt"


class TaskRoutes:
    """Handlers of the section Tasks."""

    def __init__(self, house: House, lifecycle: Lifecycle, reading: Reading) -> None:
        self._house = house
        self._lifecycle = lifecycle
        self._reading = reading

    async def start(self, request: Request) -> Response:
        """Start a task."""
        token = bearer(request)
        started = await self._lifecycle.start(token, await document(request), idempotency_key(request))
        return answer(_started(started), 201, {"location": f"/v1/tasks/{started.view.task.id}"})

    async def delegate(self, request: Request) -> Response:
        """Start a child."""
        who = await caller(self._house, bearer(request), session(request))
        asked, key = await document(request), idempotency_key(request)
        if "peer" in asked:
            handed = await hand_over(self._house, who, _id(request), asked, key)
            return answer(
                _begun(handed.document, handed), 201, {"location": f"{handed.base_url}/tasks/{handed.document['id']}"}
            )
        started = await begin_child(self._house, who, _id(request), asked, key)
        return answer(_started(started), 201, {"location": f"/v1/tasks/{started.view.task.id}"})

    async def list(self, request: Request) -> Response:
        """Give a page of tasks."""
        who = await caller(self._house, bearer(request), session(request))
        query = request.query
        limit = query.get("limit", "50")
        if not re.fullmatch(r"[1-9][0-9]?|100", limit):
            raise Problem("invalid_request", "limit is a number from 1 to 100")
        status = query.get("status")
        if status is not None and status not in STATUSES:
            raise Problem("invalid_request", f"status is one of {', '.join(STATUSES)}")
        page = await self._reading.tasks(
            who, status=status, workflow=query.get("workflow"), limit=int(limit), cursor=_cursor(query.get("cursor"))
        )
        return answer(page)

    async def show(self, request: Request) -> Response:
        """Give one task."""
        who = await caller(self._house, bearer(request), session(request))
        return answer(await self._reading.task(who, _id(request)))

    async def resume(self, request: Request) -> Response:
        """Take a task over."""
        token = bearer(request)
        reason = await _reason(request)
        return answer(_started(await self._lifecycle.resume(token, _id(request), reason)))

    async def complete(self, request: Request) -> Response:
        """End a task well."""
        return await self._change(request, "complete")

    async def suspend(self, request: Request) -> Response:
        """Park a task."""
        return await self._change(request, "suspend")

    async def kill(self, request: Request) -> Response:
        """End a task now."""
        return await self._change(request, "kill")

    async def _change(self, request: Request, verb: Verb) -> Response:
        who = await caller(self._house, bearer(request), session(request))
        task = _id(request)
        head = await self._lifecycle.change(who, task, verb, await _reason(request))
        if verb == "kill":
            return answer(await self._reading.killed(task, head))
        return answer(shown(await self._house.tasks.look(task)))

    async def checkpoint(self, request: Request) -> Response:
        """Give the agent's own state."""
        who = await caller(self._house, bearer(request), session(request))
        etag, data = await self._reading.checkpoint(who, _id(request))
        return Response(data, 200, JSON, {"etag": f'"{etag}"'})

    async def save(self, request: Request) -> Response:
        """Keep the agent's own state."""
        who = await caller(self._house, bearer(request), session(request))
        data = await body(request, CHECKPOINT_BYTES)
        parse_json(data, limit=CHECKPOINT_BYTES)
        etag = await self._reading.save(who, _id(request), data, _expected(request))
        return answer({"etag": etag}, headers={"etag": f'"{etag}"'})

    async def think(self, request: Request) -> Response:
        """Add a thought."""
        who = await caller(self._house, bearer(request), session(request))
        return answer(await self._reading.think(who, _id(request), await document(request)), 201)

    async def trace(self, request: Request) -> Response:
        """Give the journal."""
        who = await caller(self._house, bearer(request), session(request))
        query = request.query
        limit = query.get("limit", str(TRACED))
        if not re.fullmatch(r"[1-9][0-9]{0,3}", limit) or int(limit) > TRACED:
            raise Problem("invalid_request", f"limit is 1 to {TRACED}")
        after = _place(query.get("cursor"))
        return answer(await self._reading.trace(who, _id(request), limit=int(limit), after=after))

    async def verify(self, request: Request) -> Response:
        """Prove the journal."""
        who = await caller(self._house, bearer(request), session(request))
        return answer(await self._reading.verdict(who, _id(request)))

    async def token(self, request: Request) -> Response:
        """Renew a task token (RFC 8693), or begin a peer's child (RFC 7523)."""
        if "application/x-www-form-urlencoded" not in request.header(b"content-type"):
            raise Problem("invalid_request", "the body is a form: application/x-www-form-urlencoded (RFC 8693)")
        try:
            form = {name: values[0] for name, values in parse_qs((await body(request)).decode()).items()}
        except UnicodeDecodeError as error:
            raise Problem("invalid_request", "the form is not UTF-8") from error
        if form.get("grant_type") == JWT_BEARER:
            return await self._admit(form)
        if form.get("grant_type") != EXCHANGE:
            detail = f"grant_type must be {EXCHANGE}: renewal of a task token, or {JWT_BEARER}: a peer's child"
            raise Problem("unsupported", detail)
        if not form.get("subject_token") or not form.get("actor_token"):
            raise Problem(
                "invalid_request", "subject_token (the task token) and actor_token (the workload's) are needed"
            )
        started = await self._lifecycle.renew(form["subject_token"], form["actor_token"])
        return answer(_token(started))

    async def _admit(self, form: Mapping[str, str]) -> Response:
        if not form.get("assertion"):
            raise Problem("invalid_request", "assertion (a peer's grant) is needed")
        started = await admit(self._house, form["assertion"])
        return answer(_token(started) | {"task": shown(started.view), "base_url": started.base_url})


def _token(started: Started) -> dict[str, Any]:
    return {
        "access_token": started.token,
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": started.expires_in,
    }


def _begun(document: Mapping[str, Any], begun: Started | Handed) -> dict[str, Any]:
    return {"task": document, "token": begun.token, "expires_in": begun.expires_in, "base_url": begun.base_url}


def _started(started: Started) -> dict[str, Any]:
    return _begun(shown(started.view), started)


def _id(request: Request) -> str:
    task = request.named["id"]
    if not (task.startswith("t_") and task[2:].isalnum() and task.isascii() and len(task) <= 64):
        raise Problem("not_found", "there is no such task that you may see")
    return task


async def _reason(request: Request) -> str:
    asked = await document(request, optional=True)
    if set(asked) - {"reason"} or not isinstance(asked.get("reason", ""), str):
        raise Problem("invalid_request", "the body is {reason?}, a string")
    return str(asked.get("reason", ""))


def _place(cursor: str | None) -> tuple[int, str] | None:
    if not cursor:
        return None
    if not re.fullmatch(r"[0-9]{1,15}\.(rec|credit):[A-Za-z0-9_.:-]{1,128}", cursor):
        raise Problem("invalid_request", "cursor is the next_cursor of an earlier page")
    at, _, key = cursor.partition(".")
    return int(at), key


def _cursor(cursor: str | None) -> str:
    if not cursor:
        return ""
    wrong = Problem("invalid_request", "cursor is the next_cursor of an earlier page")
    if not re.fullmatch(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}/[A-Za-z0-9._]{1,100}", cursor):
        raise wrong
    try:
        date.fromisoformat(cursor[:10])
    except ValueError:
        raise wrong from None
    return cursor


class _Any:
    """Every ETag there is: what `If-Match: *` names."""

    def __contains__(self, etag: object) -> bool:
        return bool(etag)


def _expected(request: Request) -> Container[str] | None:
    """Give the ETags one of which must stand there ("" for nothing), None where it does not matter.

    Source: RFC 9110 §13.1.1, §13.1.2.
    """
    if request.header(b"if-none-match").strip() == "*":
        return frozenset({""})
    fields = request.fields(b"if-match")
    match = ", ".join(fields).strip()
    if not fields:
        return None
    if match == "*":
        return _Any()
    if not _ETAGS.fullmatch(match):
        raise Problem("invalid_request", 'If-Match is * or a list of ETags, each in quotes: "…", "…"')
    return frozenset(tag for weak, tag in _ETAG.findall(match) if not weak)  # a weak one never matches
