"""`/v1/stops…`: what operators order to stand still, and let go on."""

from __future__ import annotations

import re

from buspass import operating
from buspass.callers import caller
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.http.asgi import Request, Response
from buspass.http.exchange import answer, bearer, document

_ID = re.compile(r"s_[!-~]{1,200}")


class StopRoutes:
    """Handlers of `/v1/stops`."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def order(self, request: Request) -> Response:
        """Stop something."""
        who = await caller(self._house, bearer(request))
        return answer(await operating.order(self._house, who, await document(request)), 201)

    async def stops(self, request: Request) -> Response:
        """Give those that stand, or those that were lifted."""
        who = await caller(self._house, bearer(request))
        lifted = request.query.get("lifted", "false")
        if lifted not in {"true", "false"}:
            raise Problem("invalid_request", "lifted is true or false")
        rows = await operating.listing(self._house, who, lifted=lifted == "true")
        return answer({"data": rows, "next_cursor": None})

    async def lift(self, request: Request) -> Response:
        """Lift one; its reason is in the query, for many a client sends no body with DELETE."""
        who = await caller(self._house, bearer(request))
        reason, stop = request.query.get("reason"), request.named["id"]
        if not _ID.fullmatch(stop):
            raise Problem("not_found", "there is no such stop; GET /v1/stops shows those that stand")
        return answer(await operating.lift(self._house, who, stop, reason))
