"""Everything outside the gateway in one process: the OIDC issuer, the model provider, the three services.

Owns who listens on which port. Started by `launcher`; secrets come by environment, never by argument.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from returns.planner import plan
from returns.services import data_service, legal_service, refund_service
from returns.txn import TxnVerifier
from returns.world import build
from staging.serving import RequestLog, until_told

from buspass.testing.issuer import Issuer, Realm
from buspass.testing.provider import Provider
from buspass.testing.serve import LOOPBACK

AUDIENCE = "api://buspass"
COORDINATOR, DESK = "return-coordinator", "service-desk"


def issuer(port: int, coordinator: str, desk: str) -> Issuer:
    """Two realms: `workloads` for agents, `customers` for the customers' own logins. The rest are their secrets."""
    return Issuer(
        f"http://{LOOPBACK}:{port}",
        [
            Realm(name="workloads", audience=AUDIENCE, clients={COORDINATOR: coordinator}, algorithm="RS256"),
            Realm(name="customers", audience=AUDIENCE, clients={DESK: desk}, customers=True),
        ],
    )


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    world, log, verifier = build(), RequestLog(options.log), TxnVerifier(options.gateway)
    provider = Provider(os.environ["SIM_PROVIDER_KEY"], mind=plan)
    login = issuer(options.issuer, os.environ["RETURNS_COORDINATOR_SECRET"], os.environ["RETURNS_DESK_SECRET"])
    apps = {
        options.issuer: login.app,
        options.provider: provider.app,
        options.data: data_service(world, verifier, log),
        options.legal: legal_service(world, verifier, log),
        options.refunds: refund_service(verifier, log),
    }
    async with until_told(apps):
        print(f"listening http://{LOOPBACK}:{options.issuer}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("issuer", "provider", "data", "legal", "refunds"):
        parser.add_argument(f"--{name}", type=int, required=True, metavar="PORT")
    parser.add_argument("--gateway", required=True, metavar="URL", help="the trust domain whose Txn-Tokens count")
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="every request, a JSON object a line")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
