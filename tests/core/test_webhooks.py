"""Webhooks: what is told, to whom, that it is signed, tried again, given up, and never on a call's way."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from buspass.alerts import signed
from buspass.alerts.alerts import TRIES
from buspass.breakers import Fault, Key
from buspass.ports.secrets import SecretMissing
from buspass.ports.state import Unavailable
from buspass.testing.clock import FakeClock
from buspass.testing.house import Domain
from buspass.timer import tick

DATA = Path(__file__).parents[1] / "data" / "domain"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
HOOKS = """
webhooks:
  desk:  {url: 'http://127.0.0.1:9050/desk', on: [soft_limit, killed, breaker], secret: {secret: PROVIDER_KEY}}
  pager: {url: 'http://127.0.0.1:9050/pager', on: [breaker], secret: {secret: PROVIDER_KEY}}
"""
LIMITED = "budget: {tokens: 100000, cost: 1.00, calls: 100, wall: 10m, wait: 20s}"


class Desk:
    """What operators' own system got, and what it answers."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: dict[str, Response] = {}
        routes = [Route(path, self._take, methods=["POST"]) for path in ("/desk", "/pager")]
        self.app = Starlette(routes=routes)

    async def _take(self, request: Request) -> Response:
        self.got.append((request.url.path, dict(request.headers), await request.body()))
        return self.answers.get(request.url.path) or Response(status_code=204)

    def events(self, path: str = "/desk") -> list[Any]:
        return [json.loads(body) for where, _, body in self.got if where == path]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def hooked(
    tmp_path: Path, service: Any, upstream: Any, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Domain]:
    monkeypatch.setattr("buspass.testing.house.PROVIDER_KEY", SECRET)
    (tmp_path / "policies").symlink_to(DATA / "policies")
    (tmp_path / "buspass.yaml").write_text((DATA / "buspass.yaml").read_text("utf-8") + HOOKS, "utf-8")
    services = {"127.0.0.1:9002": service.app, "127.0.0.1:9003": upstream.app, "127.0.0.1:9050": desk.app}
    async with Domain(tmp_path / "buspass.yaml", tmp_path, services) as domain:
        await domain.host()
        yield domain


def clock_of(domain: Domain) -> FakeClock:
    assert isinstance(domain.clock, FakeClock)
    return domain.clock


async def ticked(domain: Domain, host: str = "onprem") -> None:
    await tick(domain.apps[host].house)


async def killed(domain: Domain) -> str:
    agent = await domain.agent(workflow="free")
    assert (await agent.post("kill", reason="enough")).status_code == 200
    return agent.task


def waiting(domain: Domain) -> list[Any]:
    found = domain.state.inner.dump()  # type: ignore[attr-defined]
    return [items["alert"] for name, items in found.items() if name.startswith("alert:") and items]


# ── what is told ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_kill_is_told_by_the_timer_and_not_on_its_way(hooked: Domain, desk: Desk) -> None:
    task = await killed(hooked)
    assert desk.got == []
    await ticked(hooked)
    (event,) = desk.events()
    assert event["type"] == "killed"
    assert event["data"].items() >= {"task": task, "reason": "enough", "by": "agent", "host": "onprem"}.items()
    assert desk.events("/pager") == [], "which did not ask for it"
    await ticked(hooked)
    assert len(desk.got) == 1
    assert waiting(hooked) == []


async def test_a_stop_is_told_once_and_not_for_each_task(hooked: Domain, desk: Desk) -> None:
    for _ in range(5):
        await hooked.agent(workflow="free")
    key = hooked.apps["onprem"].house.operator_key
    for _ in range(2):
        answer = await (await hooked.host()).post(
            "/v1/stops", json={"all": True, "reason": "drill"}, headers={"authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 201
    await ticked(hooked)
    (event,) = desk.events()
    assert event["data"].items() >= {"stopped": "everything", "tasks": 5, "reason": "drill"}.items()


async def test_a_breaker_that_opens_and_closes_is_told_twice(hooked: Domain, desk: Desk) -> None:
    breakers, clock = hooked.apps["onprem"].house.breakers, clock_of(hooked)
    await hooked.host("aws")
    key = Key("tool", "127.0.0.1:9002")
    for _ in range(3):
        await breakers.failed(key, Fault(kind="error_status", status=503))
    for host in ("onprem", "aws", "onprem"):
        await ticked(hooked, host)
    (event,) = desk.events()
    assert event["type"] == "breaker"
    assert event["data"].items() >= {"breaker": "tool", "name": "127.0.0.1:9002", "state": "open"}.items()
    assert event["data"]["upstream"] == {"status": 503, "kind": "error_status"}
    assert desk.events("/pager") == [event]
    clock.advance(31)
    leave = await breakers.enter(key, wait=0, lasts=1)
    await ticked(hooked, "aws")
    assert len(desk.events()) == 1, "it is being tried, which is no news"
    for _ in range(3):
        await leave.succeeded()
        leave = await breakers.enter(key, wait=0, lasts=1)
    for host in ("aws", "onprem"):
        await ticked(hooked, host)
    assert [row["data"]["state"] for row in desk.events()] == ["open", "closed"]
    assert waiting(hooked) == []


async def test_a_soft_limit_is_told_once(hooked: Domain, desk: Desk) -> None:
    agent = await hooked.agent(budget={"calls": 4})
    for _ in range(4):
        assert (await agent.call("item", {"id": "1"})).status_code == 200
    await ticked(hooked)
    (event,) = desk.events()
    assert event["type"] == "soft_limit"
    assert event["data"] == {"task": agent.task, "workflow": "work", "account": "calls", "spent_percent": 100}


# ── how it is told ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_message_is_signed_as_standard_webhooks_says(hooked: Domain, desk: Desk) -> None:
    await killed(hooked)
    await ticked(hooked)
    ((_, headers, body),) = desk.got
    message, at = headers["webhook-id"], headers["webhook-timestamp"]
    assert int(at) == hooked.clock.now() // 1000
    expected = hmac.digest(b"k" * 32, f"{message}.{at}.".encode() + body, "sha256")
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    assert SECRET not in str(desk.got)


def test_the_signature_is_that_of_the_specification() -> None:
    # https://github.com/standard-webhooks/standard-webhooks: the example of its libraries' tests
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = signed(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_???", "whsec_" + base64.b64encode(b"x").decode()])
def test_a_secret_that_proves_nothing_signs_nothing(secret: str) -> None:
    with pytest.raises(ValueError, match=r"shorter|base64"):
        signed(secret, "m", 1, b"")


async def test_without_its_secret_nothing_leaves_and_it_is_tried_again(
    hooked: Domain, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = hooked.apps["onprem"].house
    await killed(hooked)

    async def missing(name: str) -> str:
        raise SecretMissing(name)

    with monkeypatch.context() as patch:
        patch.setattr(house.secrets, "get", missing)
        await ticked(hooked)
    assert desk.got == []
    clock_of(hooked).advance(60)
    await ticked(hooked)
    assert len(desk.got) == 1


@pytest.mark.parametrize("answer", [Response(status_code=500), Response(status_code=302, headers={"location": "/x"})])
async def test_what_fails_is_tried_again_later_and_later_with_the_same_id(
    hooked: Domain, desk: Desk, answer: Response
) -> None:
    desk.answers["/desk"] = answer
    await killed(hooked)
    times, clock = [], clock_of(hooked)
    for _ in range(400):
        before = len(desk.got)
        await ticked(hooked)
        times += [clock.now()] * (len(desk.got) - before)
        clock.advance(300)
    assert len(times) == TRIES, "and then it is given up"
    gaps = [later - before for before, later in pairwise(times)]
    assert gaps[-1] > 2 * 3_600_000 > gaps[0]
    assert {headers["webhook-id"] for _, headers, _ in desk.got} == {desk.got[0][1]["webhook-id"]}
    assert waiting(hooked) == []


async def test_when_it_is_back_it_is_told(hooked: Domain, desk: Desk) -> None:
    down: set[str] = hooked.outbound.inner.down  # type: ignore[attr-defined]
    down.add("127.0.0.1:9050")
    await killed(hooked)
    await ticked(hooked)
    down.clear()
    clock_of(hooked).advance(60)
    await ticked(hooked)
    assert len(desk.got) == 1


async def test_a_webhook_that_wants_nothing_any_more_is_asked_once(hooked: Domain, desk: Desk) -> None:
    desk.answers["/desk"] = Response(status_code=410)
    await killed(hooked)
    for _ in range(3):
        await ticked(hooked)
        clock_of(hooked).advance(3600)
    assert len(desk.got) == 1
    assert waiting(hooked) == []


async def test_a_webhook_that_fails_is_tried_once_a_tick_however_much_waits(hooked: Domain, desk: Desk) -> None:
    desk.answers["/desk"] = Response(status_code=503)
    for _ in range(6):
        await killed(hooked)
    await ticked(hooked)
    assert len(desk.got) == 1
    desk.answers.clear()
    for _ in range(3):
        clock_of(hooked).advance(61)
        await ticked(hooked)
    assert len({headers["webhook-id"] for _, headers, _ in desk.got}) == 6
    assert len(desk.got) == 7


async def test_of_two_timers_at_once_one_tells(hooked: Domain, desk: Desk) -> None:
    await hooked.host("aws")
    for _ in range(4):
        await killed(hooked)
    await asyncio.gather(ticked(hooked), ticked(hooked, "aws"))
    assert len(desk.got) == 4


async def test_a_kill_stands_although_nobody_can_be_told(hooked: Domain, desk: Desk) -> None:
    agent = await hooked.agent(workflow="free")
    state, inner = hooked.state, hooked.state.inner

    async def apply(partition: str, operations: Any) -> Any:
        if partition.startswith("alert:"):
            raise Unavailable
        return await inner.apply(partition, operations)

    state.apply = apply  # type: ignore[method-assign]
    assert (await agent.post("kill", reason="enough")).json()["status"] == "killed"
    assert desk.got == []
