"""`/v1/spend` and `/v1/latency`: reports for operators, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

from buspass.callers import caller
from buspass.calls.house import House
from buspass.errors import Problem
from buspass.http.asgi import Request, Response
from buspass.http.exchange import answer, bearer
from buspass.reporting import Asked, Reporting, asked, today


class ReportRoutes:
    """Handlers of the reports."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._reporting = Reporting(house)

    async def spend(self, request: Request) -> Response:
        """Give what was spent, grouped."""
        who = await caller(self._house, bearer(request))
        return _shown(request, await self._reporting.spend(who, self._asked(request)))

    async def latency(self, request: Request) -> Response:
        """Give how long calls took, grouped."""
        who = await caller(self._house, bearer(request))
        return _shown(request, await self._reporting.latency(who, self._asked(request)))

    def _asked(self, request: Request) -> Asked:
        query = request.query
        if query.get("format", "json") not in {"json", "csv"}:
            raise Problem("invalid_request", "format is json or csv")
        now = today(self._house.clock.now())
        return asked(query.get("group_by", ""), query.get("from", ""), query.get("to", ""), now)


def _shown(request: Request, report: Mapping[str, Any]) -> Response:
    if request.query.get("format") != "csv":
        return answer(report)
    text = io.StringIO()
    rows = report["data"]
    writer = csv.DictWriter(text, list(rows[0]) if rows else list(report["group_by"]))
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    headers = {"Buspass-As-Of": str(report["as_of"])}
    return Response(text.getvalue().encode(), 200, b"text/csv; charset=utf-8", headers)


def _cell(value: Any) -> Any:
    """Give a cell that no spreadsheet takes for a formula: labels are agents' text."""
    risky = isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}
    return f"'{value}" if risky else f"{value:.6f}" if isinstance(value, float) else value
