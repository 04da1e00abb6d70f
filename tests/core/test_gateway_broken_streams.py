"""A stream that does not end well: what the agent sees, what it costs, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from msgspec.structs import replace
from starlette.responses import JSONResponse, Response

from buspass.breakers.known import Known
from buspass.calls.flow import Flow
from buspass.calls.screened_stream import ScreenedStream
from buspass.errors import Problem
from buspass.ledger import Ledger
from buspass.ports.outbound import Request, Streamed
from buspass.testing.clock import FakeClock
from buspass.testing.house import Agent, Domain
from buspass.testing.outbound import AsgiOutbound
from buspass.testing.provider import SERVER_ERROR, Fault
from buspass.testing.provider_stream import BrokenOffError, frame

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
TEXT = "one two three four five six seven eight nine ten eleven twelve"
HELD = len("rolecontentuser" + TEXT) + 256 + 16
by_path = pytest.mark.parametrize("path", [CHAT, MESSAGES])


def clock_of(domain: Domain) -> FakeClock:
    assert isinstance(domain.clock, FakeClock)
    return domain.clock


def error_of(event: Any) -> dict[str, Any]:
    """The problem that ended a stream, told with what it cost."""
    assert isinstance(event, dict), event
    assert set(event) - {"type"} == {"error", "buspass"}
    return dict(event["error"])


async def charged(record: dict[str, Any], code: str, path: str = CHAT) -> None:
    """Charged as held at the dearest target's price, for nobody counted to the end."""
    assert (record["status"], record["code"], record["estimated"]) == ("unknown", code, True)
    held, output = (HELD, 100) if path == CHAT else (HELD, 50)
    assert record["use"] == {"calls": 1, "model_calls": 1, "tokens": held + output, "cost": record["cost"]}
    assert record["cost"] == pytest.approx((2 * held + 20 * output) / 1e6)


BROKEN = {
    "ends too early": (None,),
    "connection breaks": (BrokenOffError(),),
    "error event": (frame(SERVER_ERROR), None),
    "invalid JSON": (b"data: {nope\n\n", None),
    "no chunk": (b'data: {"choices": 7}\n\n', None),
    "no object": (b"data: []\n\n", None),
    "not UTF-8": (b"data: \xff\n\n", None),
    "HTML in the middle": (b"data: <html>\n\n", None),
    "done before it has finished": (b"data: [DONE]\n\n", None),
    "cut in an event": (b'data: {"choi', None),
    "nested too deep": (b"data: " + b"[" * 100_000 + b"\n\n", None),
    "a choice nobody asked for": (b'data: {"choices": [{"index": 7, "delta": {}}]}\n\n', None),
}


@by_path
@pytest.mark.parametrize("what", BROKEN)
async def test_a_stream_that_breaks_ends_with_its_problem_and_is_charged(
    streaming: Domain, listen: Any, books: Any, feed: Any, path: str, what: str
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path) as stream:
        assert stream.headers["buspass-attempts"] == "1"
        await feed.give(3)
        for piece in BROKEN[what]:
            feed.say(piece)
        events = await stream.rest()
    *before, last = events
    assert error_of(last)["code"] == "upstream_error"
    assert error_of(last)["retryable"] is False
    assert b"one two" in stream.all, "what came before it was passed on"
    assert b"[DONE]" not in stream.all
    assert b"message_stop" not in stream.all
    assert all("error" not in event for event in before)
    (record,) = await books(agent).calls()
    await charged(record, "upstream_error", path)
    assert last["buspass"]["cost"] == f"{record['cost']:.6f}"
    assert feed.gone.is_set()
    assert not streaming.provider.requests, "no other target once events were passed on"
    if path == MESSAGES:
        assert last["type"] == "error"


@pytest.mark.parametrize("kind", ["cut", "truncated", "error_event"])
@by_path
async def test_anthropics_stream_that_breaks_costs_the_input_it_told_and_the_output_held(
    streaming: Domain, listen: Any, books: Any, claude: Any, path: str, kind: Any
) -> None:
    claude.faults.append(Fault(kind=kind))
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="claude", path=path, max_tokens=50) as stream:
        events = await stream.rest()
    code = error_of(events[-1])["code"]
    assert code == "upstream_error"
    (record,) = await books(agent).calls()
    assert (record["status"], record["estimated"]) == ("unknown", True)
    given = record["use"]["tokens"] - 50
    assert 0 < given < HELD, "its input is counted in the first event"
    assert record["cost"] == pytest.approx((3 * given + 15 * 50) / 1e6)


@pytest.mark.parametrize(
    "answer",
    [
        Response("<html><body>Welcome to the proxy</body></html>", media_type="text/html"),
        Response("", media_type="text/event-stream"),
        Response("data: nope\n\n", media_type="text/event-stream"),
        Response(": ping\n\n", media_type="text/event-stream"),
        JSONResponse({"hello": "there"}),
        JSONResponse({"error": {"message": "no"}}, 500),
    ],
    ids=["html", "empty", "no JSON", "only a comment", "JSON", "500"],
)
@by_path
async def test_what_does_not_begin_as_a_stream_is_a_problem_with_its_status(
    streaming: Domain, upstream: Any, listen: Any, books: Any, path: str, answer: Response
) -> None:
    upstream.script.append(answer)
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path) as stream:
        assert (stream.status, stream.headers["buspass-attempts"]) == (502, "1")
        assert "buspass-cost" in stream.headers
        (document,) = await stream.rest()
    assert document["error"]["code"] == "upstream_error"
    assert b"Welcome" not in stream.all
    (record,) = await books(agent).calls()
    await charged(record, "upstream_error", path)
    assert not streaming.provider.requests


async def test_a_first_event_that_does_not_come_is_not_waited_for(
    streaming: Domain, listen: Any, books: Any, feed: Any
) -> None:
    feed.first = False
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="hasty") as stream:
        assert stream.status == 504
        (document,) = await stream.rest()
    assert document["error"]["code"] == "upstream_timeout"
    assert feed.gone.is_set()
    (record,) = await books(agent).calls()
    await charged(record, "upstream_timeout")
    assert not streaming.provider.requests, "the first may have been billed"


@pytest.mark.parametrize("begin", [b"data: nope\n\n", b'data: {"choices": 7}\n\n'])
async def test_a_provider_that_begins_badly_is_not_listened_to(
    streaming: Domain, listen: Any, books: Any, feed: Any, begin: bytes
) -> None:
    feed.first = False
    feed.say(begin)
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed") as stream:
        assert stream.status == 502
    assert feed.gone.is_set(), "its connection was let go though it might go on"
    (record,) = await books(agent).calls()
    await charged(record, "upstream_error")


async def test_a_provider_that_stands_still_is_not_waited_for(
    streaming: Domain, listen: Any, books: Any, feed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = AsgiOutbound.open

    async def impatient(self: AsgiOutbound, request: Request) -> Streamed:
        return await opened(self, replace(request, idle=0.05))

    monkeypatch.setattr(AsgiOutbound, "open", impatient)
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed") as stream:
        await feed.give(3)
        events = await stream.rest()
    assert error_of(events[-1])["code"] == "upstream_timeout"
    assert feed.gone.is_set()
    (record,) = await books(agent).calls()
    await charged(record, "upstream_timeout")


@by_path
async def test_the_deadline_ends_a_stream(streaming: Domain, listen: Any, books: Any, feed: Any, path: str) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="brief", path=path) as stream:
        clock_of(streaming).advance(19)
        await feed.give(3)
        while b"one two" not in stream.all:
            await stream.event()
        clock_of(streaming).advance(1)
        clock_of(streaming).advance(2)
        await feed.give(1)
        events = await stream.rest()
    assert error_of(events[-1])["code"] == "deadline_exceeded"
    assert feed.gone.is_set()
    (record,) = await books(agent).calls()
    await charged(record, "deadline_exceeded", path)


async def test_a_provider_that_stands_still_is_left_at_the_deadline_not_at_the_next_look(
    streaming: Domain, listen: Any, books: Any, feed: Any
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="brief") as stream:
        clock_of(streaming).advance(19.5)
        await feed.give(3)
        while b"one two" not in stream.all:
            await stream.event()
        clock_of(streaming).advance(0.6)
        events = await stream.rest()
    assert error_of(events[-1])["code"] == "deadline_exceeded"
    (record,) = await books(agent).calls()
    await charged(record, "deadline_exceeded")


@by_path
@pytest.mark.parametrize("silent", [False, True])
async def test_a_kill_cuts_a_stream_within_two_seconds(
    streaming: Domain, listen: Any, books: Any, feed: Any, monkeypatch: pytest.MonkeyPatch, path: str, silent: bool
) -> None:
    if silent:  # the fake clock's seconds pass at once: look at it more often than every two real ones
        monkeypatch.setattr("buspass.calls.flow.LOOK_AGAIN", 0.02)
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path) as stream:
        await feed.give(3)
        while b"one two" not in stream.all:
            await stream.event()
        killed = await agent.post("kill", reason="enough")
        assert killed.json()["in_flight"] == 1
        clock_of(streaming).advance(2)
        if not silent:
            await feed.give(1)
        events = await stream.rest()
    assert error_of(events[-1])["code"] == "task_killed"
    assert feed.gone.is_set()
    (record,) = await books(agent).calls()
    await charged(record, "task_killed", path)


async def test_a_kill_is_not_seen_before_the_next_look(streaming: Domain, listen: Any, feed: Any) -> None:
    """Streams do not read the store at every event."""
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed") as stream:
        await agent.post("kill", reason="enough")
        clock_of(streaming).advance(1.9)
        reads = streaming.state.count.reads
        await feed.give()
        assert (await stream.rest())[-1] == "[DONE]"
        assert streaming.state.count.reads - reads < 6


async def test_another_worker_who_takes_the_task_over_ends_its_streams(
    streaming: Domain, listen: Any, books: Any, feed: Any
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed") as stream:
        token = await streaming.apps["onprem"].mint_workload("me")
        path = f"/v1/tasks/{agent.task}/resume"
        resumed = await agent.client.post(path, headers={"authorization": f"Bearer {token}"})
        assert resumed.status_code == 200, resumed.text
        clock_of(streaming).advance(2)
        await feed.give(3)
        events = await stream.rest()
    assert error_of(events[-1])["code"] == "fenced"
    (record,) = await books(agent).calls()
    assert record["code"] == "fenced"


# ── clients that go away ────────────────────────────────────────────────────────────────────────────────────────────


async def nothing_runs(before: set[asyncio.Task[Any]]) -> None:
    await turns(50)
    assert asyncio.all_tasks() <= before, "a task was left"


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@by_path
@pytest.mark.parametrize("given", range(10))
async def test_a_client_that_hangs_up_at_any_event_is_settled_once_and_leaves_nothing(
    streaming: Domain, listen: Any, books: Any, feed: Any, path: str, given: int
) -> None:
    agent = await streaming.agent()
    running = asyncio.all_tasks()
    async with listen(agent, TEXT, model="fed", path=path):
        await feed.give(given)
        await turns(100)
        left = len(feed.frames)
    await nothing_runs(running)
    assert feed.gone.is_set(), "the provider's connection was let go"
    (record,) = await books(agent).calls()
    if not left:
        assert (record["status"], record["estimated"]) == ("succeeded", False)
    elif left == 1:
        assert (record["status"], record["estimated"]) == ("unknown", False), "the provider has counted by then"
    else:
        await charged(record, "deadline_exceeded", path)
        assert "hung up" in record["detail"]


@pytest.mark.parametrize("moment", range(0, 60, 3))
async def test_a_client_that_hangs_up_while_the_stream_ends_is_settled_once(
    streaming: Domain, listen: Any, books: Any, feed: Any, moment: int
) -> None:
    agent = await streaming.agent()
    running = asyncio.all_tasks()
    async with listen(agent, "short", model="fed", headers={"idempotency-key": "k"}):
        await feed.give()
        await turns(moment)
    await nothing_runs(running)
    (record,) = await books(agent).calls()
    async with listen(agent, "short", model="fed", headers={"idempotency-key": "k"}) as again:
        assert (again.status == 200) is (record["status"] == "succeeded"), "its twin is told the same"
        assert again.headers["buspass-replayed"] == "true"


async def test_a_client_that_is_gone_before_the_headers_leave_is_settled_too(
    streaming: Domain, listen: Any, books: Any, feed: Any
) -> None:
    agent = await streaming.agent()
    stream = listen(agent, TEXT, model="fed")
    running = asyncio.all_tasks()
    stream._gone.set()
    with pytest.raises(AssertionError, match="nothing came"):
        await stream.__aenter__()
    await nothing_runs(running)
    assert feed.gone.is_set()
    (record,) = await books(agent).calls()
    assert "hung up" in record["detail"]


async def test_a_client_that_hangs_up_while_the_store_is_away_is_no_exception(
    streaming: Domain, listen: Any, books: Any, feed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await streaming.agent()
    with monkeypatch.context() as patch:
        async with listen(agent, TEXT, model="fed"):
            patch.setattr(Ledger, "settle", away)
    assert feed.gone.is_set()
    assert await books(agent).held() == 1, "nobody could end it"
    clock_of(streaming).advance(1800)
    await books(agent).get()
    (record,) = await books(agent).calls()
    assert record["state"] == "expired", "the sweep did"


# ── a stream that has begun at the provider and not yet at the agent ────────────────────────────────────────────────


class Writing:
    """The first write of a breaker once a stream is asked for: on its way from `begun` on, until the test ends it."""

    def __init__(self, domain: Domain, feed: Any, monkeypatch: Any) -> None:
        self.begun, self._feed = asyncio.Event(), feed
        self.asking: asyncio.Future[Any] | None = None
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._apply = domain.state.apply
        monkeypatch.setattr(domain.state, "apply", self.apply)

    async def apply(self, partition: str, operations: Any) -> Any:
        if partition.startswith("breaker:") and self._feed.asked.is_set() and not self.begun.is_set():
            self.begun.set()
            await self.end
        return await self._apply(partition, operations)


async def opened_after(
    failures: int, domain: Domain, agent: Agent, listen: Any, upstream: Any, feed: Any, monkeypatch: Any
) -> tuple[asyncio.Task[Any], Writing]:
    """A call whose stream begins after so many failures of its target: the write that it works now is on its way."""
    upstream.script.extendleft([JSONResponse({}, 500)] * failures)
    for _ in range(failures):
        assert (await agent.chat(model="fed")).status_code == 502
    clock_of(domain).advance(31)
    writing = Writing(domain, feed, monkeypatch)
    stream = listen(agent, TEXT, model="fed")
    writing.asking = asyncio.ensure_future(stream.__aenter__())  # it ends with the call
    await asyncio.wait_for(writing.begun.wait(), 30)
    return stream.running, writing


def breaker_of(domain: Domain, name: str) -> Known:
    (found,) = [known for key, known in domain.apps["onprem"].house.breakers.memory.items() if key.name == name]
    return found


AFTER = pytest.mark.parametrize("failures", [1, 3], ids=["a suspect target", "the probe of a dead one"])


@AFTER
async def test_a_call_cancelled_while_its_breaker_is_written_lets_its_stream_go(
    streaming: Domain, listen: Any, books: Any, feed: Any, upstream: Any, monkeypatch: Any, failures: int
) -> None:
    agent = await streaming.agent()
    running = asyncio.all_tasks()
    call, _ = await opened_after(failures, streaming, agent, listen, upstream, feed, monkeypatch)
    assert not feed.gone.is_set()
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    assert feed.gone.is_set(), "its connection is let go before the call is over, not when its memory is"
    await nothing_runs(running)
    assert await books(agent).held() == 1, "as of any call that is cancelled"
    clock_of(streaming).advance(1800)
    await books(agent).get()
    assert (await books(agent).calls())[-1]["state"] == "expired", "the sweep ended it"


@AFTER
async def test_a_call_whose_breaker_breaks_lets_its_stream_go_and_is_charged(
    streaming: Domain, listen: Any, books: Any, feed: Any, upstream: Any, monkeypatch: Any, failures: int
) -> None:
    agent = await streaming.agent()
    call, writing = await opened_after(failures, streaming, agent, listen, upstream, feed, monkeypatch)
    writing.end.set_exception(broke := RuntimeError("nobody foresaw it"))
    await call
    assert broke.__traceback__ is not None, "what it came through is kept in memory"
    assert feed.gone.is_set()
    record = (await books(agent).calls())[-1]
    assert (record["code"], record["estimated"]) == ("internal", True)


@AFTER
async def test_a_call_cancelled_while_its_breaker_is_written_takes_no_place_and_no_lease(
    streaming: Domain, listen: Any, feed: Any, upstream: Any, monkeypatch: Any, failures: int
) -> None:
    agent = await streaming.agent()
    call, _ = await opened_after(failures, streaming, agent, listen, upstream, feed, monkeypatch)
    breaker = breaker_of(streaming, "second/planner-1")
    assert (breaker.flying, breaker.breaker.state) == (1, "suspect" if failures == 1 else "half_open")
    call.cancel()
    await asyncio.wait({call})
    assert (breaker.flying, breaker.breaker.probe) == (0, "")
    assert (await agent.chat(model="fed")).headers["buspass-target"] == "second/planner-1", "the next one may ask it"


# ── what fails inside ───────────────────────────────────────────────────────────────────────────────────────────────


async def away(*_: Any) -> None:
    raise Problem("state_unavailable", "the store is away")


@by_path
async def test_a_settle_that_fails_ends_the_stream_as_of_unknown_outcome(
    streaming: Domain,
    listen: Any,
    books: Any,
    feed: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed", path=path) as stream:
        monkeypatch.setattr(Ledger, "settle", away)
        await feed.give()
        events = await stream.rest()
    error = error_of(events[-1])
    assert (error["code"], error["retryable"]) == ("outcome_unknown", False)
    assert events[-1]["buspass"] == {}, "nobody knows what it cost"
    assert b"[DONE]" not in stream.all
    assert await books(agent).held() == 1
    assert "could not be recorded: state_unavailable: the store is away" in caplog.text


async def test_what_nobody_foresaw_ends_the_stream_as_internal_and_tells_nothing(
    streaming: Domain,
    listen: Any,
    books: Any,
    feed: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def breaks(*_: Any) -> None:
        raise RuntimeError("a secret detail")

    agent = await streaming.agent()
    async with listen(agent, TEXT, model="fed") as stream:
        monkeypatch.setattr(ScreenedStream, "event", breaks)
        await feed.give()
        events = await stream.rest()
    assert error_of(events[-1])["code"] == "internal"
    assert b"secret detail" not in stream.all
    assert "secret detail" in caplog.text, "the log says how"
    (record,) = await books(agent).calls()
    assert (record["code"], record["estimated"]) == ("internal", True)
    assert feed.gone.is_set()


# ── many at once ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.verify
async def test_of_two_hundred_streams_at_once_a_quarter_hangs_up_and_the_ledger_closes(
    streaming: Domain, listen: Any, books: Any
) -> None:
    streaming.provider.pace = 0.001
    agents = [await streaming.agent() for _ in range(4)]
    running = asyncio.all_tasks()

    async def one(index: int) -> str:
        agent = agents[index % 4]
        async with listen(agent, f"{index} {TEXT}", path=(CHAT, MESSAGES)[index % 2]) as stream:
            if index // 4 % 4 == 0:
                for _ in range(index // 16 % 6):
                    await stream.event()
                return "gone"
            return str((await stream.rest())[-1])

    ends = await asyncio.gather(*(one(index) for index in range(200)))
    assert ends.count("gone") == 52
    await nothing_runs(running)
    states = [record["status"] for agent in agents for record in await books(agent).calls()]
    assert (states.count("unknown"), states.count("succeeded")) == (52, 148)
    gc.collect()
    left = [found for found in gc.get_objects() if isinstance(found, Flow | ScreenedStream)]
    assert not left, "no stream is kept in memory"
