"""The procurement demo in one process: the same agent straight at a dead vendor and through Buspass, on one clock."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from buspass.testing.clock import FakeClock
from buspass.testing.house import PROVIDER_KEY, Domain
from buspass.testing.outbound import AsgiOutbound
from buspass.testing.provider import Provider
from buspass.testing.provider_cache import PromptCache
from buspass.testing.serve import free_port, serving

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

from procurement import agent as program  # noqa: E402 - the examples are no package of the distribution
from procurement import negotiator, page, services  # noqa: E402
from procurement.launcher import HOSTS, UPSTREAMS, Stack  # noqa: E402
from procurement.services import PAGE, Company, Marketplace, Timetable, alerts, erp  # noqa: E402
from procurement.side import Side  # noqa: E402
from procurement.world import PARTS  # noqa: E402
from staging.serving import RequestLog  # noqa: E402

CONFIG = (EXAMPLES / "procurement" / "buspass.yaml").read_text()
PRICE = yaml.safe_load(CONFIG)["prices"]["sim/gpt-5.5"]
THINKS = 2.0
"""Seconds of the clock that a thought takes."""
VENDORS = f"127.0.0.1:{UPSTREAMS['vendors']}"


class World:
    """The company on a clock that moves with each thought, and the side whose agent works in it."""

    def __init__(self, name: str, table: Timetable) -> None:
        self.clock = FakeClock()
        self.log = RequestLog()
        company = Company({PROVIDER_KEY: name}, self.log)
        self.market = Marketplace(company, self.clock.monotonic)
        self.market.begin(table)
        self.side = Side(name=name, price=PRICE)
        self.provider = Provider(PROVIDER_KEY, models=("gpt-5.5",), mind=self.think, caching=True, kept=1)
        self.apps = {"alerts": alerts(company), "erp": erp(company), "vendors": self.market.app}
        self.services = {f"127.0.0.1:{UPSTREAMS[each]}": app for each, app in self.apps.items()}
        self.down: set[str] = set()

    def think(self, request: Any) -> Any:
        self.clock.advance(THINKS)
        self.at_this_time()
        return negotiator.plan(request)

    def at_this_time(self) -> None:
        self.down.update({VENDORS} if self.market.state == "refuses" else ())
        self.down.intersection_update({VENDORS} if self.market.state == "refuses" else ())

    def sleep(self, until: str) -> str:
        """A pause of the agent, on this clock."""
        now = dt.datetime.fromtimestamp(self.clock.now() / 1000, dt.UTC)
        due = dt.datetime.combine(now.date(), dt.time.fromisoformat(until), dt.UTC)
        self.clock.advance((due - now).total_seconds() % 86_400)
        self.at_this_time()
        return until

    async def run(self, monkeypatch: pytest.MonkeyPatch, base_url: str, key: str, tools: list[Any]) -> Any:
        """The agent's own loop in a thread; only its clock is not the real one."""
        monkeypatch.setenv("OPENAI_BASE_URL", base_url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setenv("KEY", key)
        monkeypatch.setattr(program, "tell", lambda event, **facts: self.side.note({"event": event, "at": 0, **facts}))
        monkeypatch.setattr(program.Agent, "sleep", lambda _, until: self.sleep(until))
        with contextlib.closing(program.Agent(tools, "gpt-5.5")) as agent:
            await asyncio.to_thread(agent.run, "Deal with the alerts.")
        return self.side.summary(self.log.entries)


async def governed(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    ports = {name: free_port() for name in HOSTS}
    text = re.sub(r"secret: (?:SUPPLY|ERP|VENDOR|SIM_PROVIDER)_KEY", "secret: PROVIDER_KEY", CONFIG)
    text = text.replace(str(UPSTREAMS["provider"]), "9001")
    for name, port in ports.items():
        text = text.replace(f"127.0.0.1:{HOSTS[name]}", f"127.0.0.1:{port}")
    config = yaml.safe_load(text)
    del config["identity"], config["workflows"]["procurement"]["agents"]
    (folder / "buspass.yaml").write_text(yaml.safe_dump(config))
    domain = Domain(folder / "buspass.yaml", folder, world.services, provider=world.provider, clock=world.clock)
    assert isinstance(domain.outbound.inner, AsgiOutbound)
    world.down = domain.outbound.inner.down
    async with domain, contextlib.AsyncExitStack() as servers:
        for name, port in ports.items():
            await domain.host(name)
            await servers.enter_async_context(serving(domain.apps[name], port=port))
        begun = await domain.agent(host="azure", workflow="procurement")
        listed = (await begun.client.get("/v1/tools", headers=begun.headers)).json()["data"]
        started = {"base_url": f"http://127.0.0.1:{ports['azure']}/v1", "token": begun.token}
        tools = json.loads(Path(Stack(folder).governed(started, listed)["AGENT_TOOLS"]).read_text())
        found = await world.run(monkeypatch, started["base_url"], begun.token, tools)
        records = (await begun.get("/trace?limit=500")).json()["records"]
    return found, records


async def straight(world: World, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    stack = Stack(folder)
    stack.run.mkdir(exist_ok=True)
    stack.configure(CONFIG)
    async with contextlib.AsyncExitStack() as servers:
        for name, app in world.apps.items():
            await servers.enter_async_context(serving(app, port=stack.ports[UPSTREAMS[name]]))
        url = await servers.enter_async_context(serving(world.provider.app))
        tools = json.loads(Path(stack.straight()["AGENT_TOOLS"]).read_text())
        for tool in tools:
            tool["headers"] = {"Authorization": "Bearer $KEY"}
        return await world.run(monkeypatch, f"{url}/v1", PROVIDER_KEY, tools)


async def test_one_agent_argues_with_a_dead_vendor_and_through_buspass_comes_back_when_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "PARTS", dict(list(PARTS.items())[:2]))  # two alerts are enough
    alone = World("straight", Timetable(refuses=10, page=10, back=10_000, pages=25))
    found = await straight(alone, tmp_path / "straight", monkeypatch)
    assert (found["dead_calls"], found["pages_shown_to_the_model"], found["ordered"]) == (25, 25, 2)
    assert found["dearest"] > 5
    assert found["cost"] > 0.25

    caged = World("buspass", Timetable(refuses=10, page=17, back=34))
    (tmp_path / "buspass").mkdir()
    mine, records = await governed(caged, tmp_path / "buspass", monkeypatch)
    assert (mine["ordered"], mine["final"]) == (2, "Done: 2 of 2 parts are ordered.")
    assert 2 <= mine["dead_calls"] <= 5
    assert 1 <= mine["vendor_pages_logged"] < mine["dead_calls"]  # it was refused a connection, too
    assert (mine["pages_shown_to_the_model"], mine["dearest"] <= 1) == (0, True)
    assert sum(record.get("code") == "upstream_error" for record in records) == mine["dead_calls"]
    assert mine["cost"] == pytest.approx(sum(record["cost"] for record in records), abs=0.001)
    assert mine["cost"] < 0.5


def talk(*answers: str) -> list[dict[str, Any]]:
    """A conversation in which the vendor's mail was answered with these texts."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Deal with the alerts."}]
    part = next(iter(PARTS.values()))
    stock = {"part": part.id, "name": part.name, "stock": 1, "vendor": part.vendor, "last_price": 100, "ceiling": 102}
    texts = [json.dumps({"alerts": [{"part": part.id, "quantity": 4}]}), json.dumps({"result": stock}), *answers]
    for number, text in enumerate(texts):
        said = negotiator.plan({"messages": messages})
        (call,) = said["tool_calls"]
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        messages.append(
            {
                "role": "assistant",
                "content": said["content"],
                "tool_calls": [{"id": f"c{number}", "function": function}],
            }
        )
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": text})
    return messages


def test_the_simulated_model_takes_an_error_page_for_a_refusal_and_offers_more_up_to_the_ceiling() -> None:
    messages = talk(*[PAGE] * 40)
    mails = [json.loads(m["tool_calls"][0]["function"]["arguments"]) for m in messages if m.get("tool_calls")][2:]
    prices = [mail["price"] for mail in mails]
    assert prices == sorted(prices)
    assert (prices[0], prices[-1]) == (92, 102)
    assert len({mail["text"] for mail in mails}) == len(mails)


WAIT = '{"code": "%s", "detail": "the service behind tool \'x\' %s. Do not retry before 12:40:05 UTC; tell the user."}'


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        (WAIT % ("upstream_error", "could not be reached"), True),
        (WAIT % ("circuit_open", "answers with an error page; it was not called"), True),
        ("<html>Busy. Please do not contact us again before 12:40:05.</html>", True),
        ("<html>Please try again later.</html>", False),
        ("An error occurred while running the tool. Please try again.", False),
        ('{"code": "upstream_error", "detail": "the service answered with status 500."}', False),
    ],
)
def test_the_simulated_model_waits_where_a_text_says_until_when_whoever_wrote_it(text: str, waits: bool) -> None:
    messages = talk(text)
    said = negotiator.plan({"messages": messages})
    assert ("tool_calls" in said) is not waits
    assert bool(program.RESUME.search(said["content"])) is waits
    messages += [{"role": "assistant", "content": said["content"]}, {"role": "user", "content": "It is 12:40:06 UTC."}]
    if waits:
        again = negotiator.plan({"messages": messages})["tool_calls"][0]
        assert (again["name"], again["arguments"]["price"]) == ("email_vendor", 92)


def test_the_vendors_timetable_depends_on_time_and_on_how_often_it_was_asked_alone() -> None:
    table = Timetable(refuses=1, page=4, back=90, pages=200)
    states = [table.state(seconds, pages) for seconds, pages in ((0, 0), (1, 0), (4, 199), (4, 200), (90, 3))]
    assert states == ["well", "refuses", "404 page", "well", "well"]


async def test_what_an_agent_gets_of_the_demos_secrets_is_what_its_side_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
    stack = Stack(tmp_path)
    stack.configure(CONFIG)
    caged = stack.governed({"base_url": "http://127.0.0.1:1/v1", "token": "the-token"}, [])
    assert {"the-token"} == {value for name, value in caged.items() if "KEY" in name}
    assert not {*stack.secrets.values(), "sk-mine"} & {*caged.values()}
    alone = stack.straight()
    assert alone["OPENAI_API_KEY"] == stack.secrets["SIM_PROVIDER_KEY"]
    assert {name for name in caged if name.startswith(("OPENAI_", "AGENT_"))} == {
        name for name in alone if name.startswith(("OPENAI_", "AGENT_"))
    }


def test_a_cached_prefix_counts_in_steps_of_128_tokens_from_1024_on() -> None:
    cache = PromptCache()

    def asked(*texts: str) -> int:
        return cache.hit({"messages": [{"role": "user", "content": text} for text in texts]})

    assert asked("a" * 2_000) == 0
    assert asked("a" * 2_000, "more") == 0  # under 1,024 tokens
    assert asked("b" * 8_000) == 0
    found = asked("b" * 8_000, "more")
    assert (found % 128, 1_900 < found <= 2_020) == (0, True)
    assert asked("b" * 8_000, "other", "b" * 8_000) == found
    assert asked("c" * 8_000) == 0


def side(**more: Any) -> dict[str, Any]:
    tokens = {"input": 2_000_000, "cached": 1_000_000, "output": 1_000, "all": 2_001_000}
    facts = {
        "dead_calls": 3,
        "pages_shown_to_the_model": 0,
        "model_calls": 51,
        "tokens": tokens,
        "cost": 0.24,
        "seconds": 41.2,
    }
    return {**facts, "ordered": 8, "wanted": 8, "dearest": 1.0, "paid": 37983.34, **more}


def test_a_run_writes_its_tables_into_the_page_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("# Before\n\n<!-- a run writes this -->\nold\n<!-- to here -->\n\nAfter.\n")
    page.write({"model": "gpt-5.5", "straight": side(dead_calls=240), "buspass": side()}, file)
    text = file.read_text()
    assert text.startswith(
        "# Before\n\n<!-- a run writes this -->\n\n| | straight | through Buspass |\n| --- | ---: | ---: |\n"
    )
    assert text.endswith("\n\n<!-- to here -->\n\nAfter.\n")
    assert "| calls to the dead vendor | 240 | 3 |" in text
    assert "| gpt-6-astra | 11.05 | 11.05 |" in text
    with pytest.raises(ValueError, match="no place"):
        page.write({"model": "m", "straight": side(), "buspass": side()}, _empty(tmp_path))


def _empty(folder: Path) -> Path:
    file = folder / "empty.md"
    file.write_text("nothing\n")
    return file


async def test_nobody_listens_while_the_vendor_refuses() -> None:
    now, turn = [0.0], asyncio.Event()

    async def sleep(seconds: float) -> None:
        """Until the test says that so much time is over."""
        await turn.wait()
        turn.clear()
        now[0] += seconds

    market = Marketplace(Company({"k": "me"}, RequestLog()), clock=lambda: now[0], sleep=sleep)
    port = free_port()
    serves = asyncio.create_task(market.serve(port))
    async with httpx.AsyncClient(headers={"authorization": "Bearer k"}, trust_env=False, timeout=30) as http:

        async def other_than(status: int) -> int:
            """What it answers once that is something else; 0 where nobody listens."""
            while True:
                try:
                    answer = await http.post(
                        f"http://127.0.0.1:{port}/messages", json={"part": "P-2201", "price": 150.0}
                    )
                except httpx.ConnectError:
                    found = 0
                except httpx.TransportError:
                    continue  # it was there when it closed
                else:
                    found = answer.status_code
                if found != status:
                    return found
                await asyncio.sleep(0.01)

        async with asyncio.timeout(60):
            assert await other_than(0) == 200
            market.begin(Timetable(refuses=1, page=4, back=90, pages=1))
            turn.set()
            assert await other_than(200) == 0
            turn.set()
            assert await other_than(0) == 404
            assert await other_than(404) == 200  # one page was all that the timetable had
    serves.cancel()
    await asyncio.wait([serves])
