"""`/v1/keys…`: what operators do with keys."""

from __future__ import annotations

import re
from typing import Any

from buspass import keys
from buspass.callers import caller
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.http.asgi import Request, Response
from buspass.http.exchange import answer, bearer, document

_ID = re.compile(r"k_[a-z2-7]{16}")


class KeyRoutes:
    """Handlers of `/v1/keys`."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def new(self, request: Request) -> Response:
        """Make a key; its text is in this answer and never again."""
        who = await caller(self._house, bearer(request))
        return answer(self._made(await keys.new(self._house, who, await document(request))), 201)

    async def listing(self, request: Request) -> Response:
        """Give a page of keys."""
        who = await caller(self._house, bearer(request))
        query = request.query
        limit, cursor = query.get("limit", "50"), query.get("cursor", "")
        if not re.fullmatch(r"[1-9][0-9]?|100", limit):
            raise Problem("invalid_request", "limit is a number from 1 to 100")
        if cursor and not _ID.fullmatch(cursor):
            raise Problem("invalid_request", "cursor is the next_cursor of an earlier page")
        found, after = await keys.listing(self._house, who, int(limit), cursor)
        now = self._house.clock.now()
        return answer({"data": [keys.shown(key, now) for key in found], "next_cursor": after})

    async def rotate(self, request: Request) -> Response:
        """Give a key a new secret."""
        who = await caller(self._house, bearer(request))
        asked = await document(request, optional=True)
        return answer(self._made(await keys.rotate(self._house, who, _id(request), asked)))

    async def revoke(self, request: Request) -> Response:
        """End a key."""
        who = await caller(self._house, bearer(request))
        if await document(request, optional=True):
            raise Problem("invalid_request", "the body is empty: a revocation has nothing to say")
        return answer(keys.shown(await keys.revoke(self._house, who, _id(request)), self._house.clock.now()))

    def _made(self, made: keys.Made) -> dict[str, Any]:
        return {"key": made.text, **keys.shown(made.key, self._house.clock.now())}


def _id(request: Request) -> str:
    key = request.named["id"]
    if not _ID.fullmatch(key):
        raise Problem("not_found", "there is no such key; GET /v1/keys shows them")
    return key
