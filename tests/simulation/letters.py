"""Trust domains and the letters between them: what a peer is sent arrives, or not, or late, or twice, or is forged.

Owns which hosts are whose, the wire between two domains and every fault of it. Refuses to know what a letter says: it is
read and answered by the product.
"""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import notary

from buspass import closing
from buspass.admitting import admit, obey
from buspass.config.build import load
from buspass.errors import Problem
from buspass.peering import proven
from buspass.ports.outbound import Ambiguous, NotSent, Response
from buspass.ports.state import OutcomeUnknown, Unavailable
from buspass.testing.state_memory import Crash
from buspass_onprem import signer

CONFIGS = Path(__file__).parents[1] / "data" / "simulation"
DOMAINS = {"home": ("onprem", "aws", "azure"), "partner": ("edge",), "depot": ("yard",)}
"""Trust domains and their hosts, each with its own keys. Those of one domain share a store but `azure`."""
HOSTS = tuple(host for hosts in DOMAINS.values() for host in hosts)
DOMAIN = {host: domain for domain, hosts in DOMAINS.items() for host in hosts}
GATES = {"home": ("onprem", "aws"), "partner": ("edge",), "depot": ("yard",)}
"""Hosts that a letter to a domain arrives at."""
KEYS = {"home": "00" * 32, "partner": "01" * 32, "depot": "02" * 32}
ADDRESSES = {"127.0.0.1:8700": "home", "127.0.0.1:8710": "partner", "127.0.0.1:8720": "depot"}
CHANCE = {
    "letter lost": 0.06,
    "letter late": 0.06,
    "letter twice": 0.1,
    "reply lost": 0.06,
    "forged": 0.05,
    "frozen": 0.15,
}
LATER = (1.0, 4.0, 12.0, 40.0)
"""Seconds by which one is late: whoever sent it has given it up, and may have sent another."""


def founded(folder):
    """Give every domain's settings, and every host's signer."""
    settings = {name: load(CONFIGS / f"{name}.yaml", environ={}, bind="127.0.0.1", port=8700) for name in DOMAINS}
    signers = {
        host: notary.Signer(asyncio.run(signer.open("file:", data=Path(folder) / host, create=True))) for host in HOSTS
    }
    return settings, signers


async def carried(world, process, request):
    """Carry a letter from a process to another domain, and its answer back, in the time that the request has."""
    parts = urlsplit(request.url)
    trip = asyncio.get_running_loop().create_task(_trip(world, process, parts, request))
    await asyncio.wait([trip], timeout=request.timeout)
    if process.dead:
        raise Crash
    if not trip.done():
        raise Ambiguous("no answer in time")
    answer = trip.result()
    if isinstance(answer, Exception):
        raise answer
    return answer


async def _trip(world, process, parts, request):
    """Give the answer, or the error that the sender meets."""
    domain = ADDRESSES[parts.netloc]
    key = parts.path.startswith("/.well-known")
    if (process.host, domain) in world.cuts and world.meets("cut"):
        return NotSent("cut")
    if _happens(world, "letter lost"):
        return NotSent("lost") if world.random.random() < 0.5 else Ambiguous("lost")
    await world.pause(world.random.choice(LATER if _happens(world, "letter late") else world.delays))
    if not key and _happens(world, "letter twice"):
        asyncio.get_running_loop().create_task(_again(world, domain, parts, request))
    answer = await _delivered(world, domain, parts, request)
    if answer is None:
        return Ambiguous("the host died of it")
    if not key and answer.status == 200:
        world.seen[parts.path] += 1
        if "/v1/peers/" in parts.path and _happens(world, "forged"):
            await _forged(world, DOMAIN[process.host], domain, request, answer)
    if _happens(world, "reply lost"):
        return Ambiguous("the answer was lost")
    await world.pause(world.random.choice(world.delays))
    return answer


def _happens(world, kind):
    return not world.calm and world.random.random() < CHANCE[kind] and world.meets(kind)


async def _again(world, domain, parts, request):
    await world.pause(world.random.choice(LATER))
    await _delivered(world, domain, parts, request)


async def _delivered(world, domain, parts, request):
    """Hand a letter to a living host of the domain; None where none is left, or it died of it."""
    host = world.random.choice(GATES[domain])
    target = world.process(host) or world.process(GATES[domain][0])
    return await world.on(target, lambda process: _served(process, parts.path, request.body))


async def _served(process, path, body):
    try:
        return _reply(200, await _answered(process.world, process.house, path, body))
    except Problem as problem:
        return _reply(problem.status, problem.document())
    except (Unavailable, OutcomeUnknown):
        return _reply(503, {"code": "state_unavailable", "detail": "away"})


async def _answered(world, house, path, body):
    if path == "/oauth2/token":
        started = await admit(house, parse_qs(body.decode())["assertion"][0])
        task = {"id": started.view.task.id}
        return {"access_token": started.token, "expires_in": started.expires_in, "task": task}
    if path == "/v1/peers/orders":
        return {"statement": await obey(house, json.loads(body)["order"])}
    if path == "/v1/peers/statements":  # `hear`, with a moment between its two steps
        peer, said = await proven(house, json.loads(body)["statement"])
        if _happens(world, "frozen"):
            await world.pause(world.random.choice((4.0, 40.0, 250.0)))
        await closing.heard(house, peer, said)
        return {"heard": True}
    if path == "/.well-known/jwks.json":
        return await house.keyring.jwks()
    issuer = house.settings.issuer
    return {"issuer": issuer, "jwks_uri": f"{issuer}/.well-known/jwks.json"}


def _reply(status, document):
    headers = {"content-type": "application/json"}
    return Response(status=status, headers=headers, body=json.dumps(document).encode())


async def _forged(world, sender, target, request, answer):
    """Send the parent's domain a statement that says more for its sender than the true one, signed by nobody."""
    said = {**json.loads(request.body), **json.loads(answer.body)}
    statement, parents = said["statement"], sender if "order" in said else target
    head, body, _ = statement.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["buspass"] |= {"state": "ended", "status": "completed", "used": {}, "as_of": 10**6}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    signature = base64.urlsafe_b64encode(notary.forged(f"{head}.{body}".encode())).rstrip(b"=").decode()
    letter = urlsplit(f"http://{parents}/v1/peers/statements")
    forgery = type(request)(
        method="POST", url="", body=json.dumps({"statement": f"{head}.{body}.{signature}"}).encode(), timeout=5
    )
    await _delivered(world, parents, letter, forgery)
