"""Everything outside the gateway in one process: the OIDC issuer, the model provider, the company's services.

Owns who listens on which port. Started by `launcher`; secrets come by environment, never by argument.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from procurement.negotiator import plan
from procurement.services import Company, Marketplace, Timetable, alerts, erp
from staging.serving import RequestLog, until_told
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from buspass.testing.issuer import Issuer, Realm
from buspass.testing.provider import Provider
from buspass.testing.serve import LOOPBACK

PORTS: Final = ("issuer", "provider", "alerts", "erp", "vendors", "control")
KEYS: Final = ("SUPPLY_KEY", "ERP_KEY", "VENDOR_KEY")
"""What the services take from the gateway; STRAIGHT_KEY is the agent's own, at all three."""
AGENT: Final = "procurement-agent"
MODEL: Final = "gpt-5.5"
THINKS: Final = 0.03
"""Seconds that the simulated model takes for an answer. A real one takes some hundred times as long."""


class Unhurried:
    """An application that takes its time."""

    def __init__(self, app: Any, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        await asyncio.sleep(self.seconds)
        await self.app(scope, receive, send)


def control(market: Marketplace) -> Starlette:
    """Where the demo starts the timetable: POST /begin with the parts of it that are to be others."""

    async def begin(request: Request) -> Response:
        market.begin(Timetable(**await request.json()))
        return JSONResponse(dataclasses.asdict(market.timetable))

    async def health(_: Request) -> Response:
        return JSONResponse({"vendors": market.state, "pages": market.pages})

    return Starlette(routes=[Route("/begin", begin, methods=["POST"]), Route("/health", health)])


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    callers = {os.environ[name]: "buspass" for name in KEYS} | {os.environ["STRAIGHT_KEY"]: "straight"}
    company = Company(callers, RequestLog(options.log))
    market = Marketplace(company)
    provider = Provider(os.environ["SIM_PROVIDER_KEY"], models=(MODEL,), mind=plan, caching=True, kept=100)
    realm = Realm(name="workloads", audience="api://buspass", clients={AGENT: os.environ["PROCUREMENT_SECRET"]})
    apps = {
        options.issuer: Issuer(f"http://{LOOPBACK}:{options.issuer}", [realm]).app,
        options.provider: Unhurried(provider.app, THINKS),
        options.alerts: alerts(company),
        options.erp: erp(company),
        options.control: control(market),
    }
    selling = asyncio.create_task(market.serve(options.vendors))
    async with until_told(apps):
        print(f"listening http://{LOOPBACK}:{options.issuer}", flush=True)
    selling.cancel()
    await asyncio.wait([selling])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in PORTS:
        parser.add_argument(f"--{name}", type=int, required=True, metavar="PORT")
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="every request, a JSON object a line")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
