"""The clock and the outbound doubles of `buspass.testing` keep the ports' promises."""

import asyncio

import pytest

from buspass.ports.outbound import Ambiguous, NotSent, Request, Response, TimedOut
from buspass.testing.clock import FakeClock
from buspass.testing.outbound import AsgiOutbound, RecordingOutbound, ScriptedOutbound

OK = Response(status=200, headers={}, body=b"ok")


def asking(url="http://a:1/x%20y?q=1", **options):
    return Request(**{"method": "POST", "url": url, "body": b"in", "timeout": 1.0, **options})


class TestClock:
    async def test_sleepers_wake_in_the_order_they_are_due_at_their_own_time(self):
        clock, woken = FakeClock(start=1000), []

        async def sleeper(seconds):
            await clock.sleep(seconds)
            woken.append((seconds, clock.monotonic(), clock.now()))

        await asyncio.gather(*(sleeper(s) for s in (3, 1, 2, 1, 0)))
        assert woken == [(0, 0, 1000), (1, 1, 2000), (1, 1, 2000), (2, 2, 3000), (3, 3, 4000)]

    async def test_a_cancelled_sleeper_is_not_waited_for(self):
        clock = FakeClock()
        early = asyncio.create_task(clock.sleep(1))
        late = asyncio.create_task(clock.sleep(5))
        await asyncio.sleep(0)
        early.cancel()
        await late
        assert clock.monotonic() == 5

    def test_time_goes_forward_and_randomness_repeats(self):
        clock = FakeClock()
        clock.advance(1.5)
        assert (clock.now() - FakeClock().now(), clock.monotonic()) == (1500, 1.5)
        with pytest.raises(ValueError, match="forward"):
            clock.advance(-1)
        assert FakeClock(seed=1).random(16) == FakeClock(seed=1).random(16) != FakeClock(seed=2).random(16)


async def test_a_script_answers_in_order_and_fails_when_it_is_over():
    async def later(request):
        return Response(status=201, headers={}, body=request.body)

    outbound = ScriptedOutbound([OK, NotSent("no"), lambda _: OK, later])
    assert await outbound.send(asking()) == OK
    with pytest.raises(NotSent):
        await outbound.send(asking())
    assert await outbound.send(asking()) == OK
    assert (await outbound.send(asking())).body == b"in"
    with pytest.raises(AssertionError, match="nothing is scripted for POST http://a:1"):
        await outbound.send(asking())
    assert len(outbound.requests) == 5
    await outbound.close()
    assert outbound.closed


async def test_a_recording_keeps_answers_and_errors():
    outbound = RecordingOutbound(ScriptedOutbound([OK, Ambiguous("?")]))
    await outbound.send(asking())
    with pytest.raises(Ambiguous):
        await outbound.send(asking())
    assert [type(result) for _, result in outbound.exchanges] == [Response, Ambiguous]
    assert len(outbound.requests) == 2
    await outbound.close()


class TestAsgi:
    async def test_an_application_gets_the_request_by_its_host(self):
        async def app(scope, receive, send):
            body = (await receive())["body"]
            assert (await receive())["type"] == "http.disconnect"
            said = f"{scope['method']} {scope['path']} {scope['query_string'].decode()} {body.decode()}"
            await send({"type": "http.response.start", "status": 202, "headers": [(b"X-A", b"1")]})
            await send({"type": "http.response.body", "body": said.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"!"})

        outbound = AsgiOutbound({"a:1": app})
        assert await outbound.send(asking()) == Response(status=202, headers={"x-a": "1"}, body=b"POST /x y q=1 in!")
        with pytest.raises(Ambiguous, match="larger"):
            await outbound.send(asking(limit=3))
        outbound.down.add("a:1")
        for request in (asking(), asking(url="http://b:1/"), asking(timeout=0)):
            with pytest.raises(NotSent):
                await outbound.send(request)
        outbound.down.clear()
        with pytest.raises(NotSent):
            await outbound.send(asking(timeout=0))
        await outbound.close()
        with pytest.raises(NotSent):
            await outbound.send(asking())

    @pytest.mark.parametrize("kind", ["raises", "says nothing", "stops half-way", "is slow"])
    async def test_an_application_that_fails_is_a_broken_server(self, kind):
        async def app(scope, receive, send):
            if kind == "raises":
                raise RuntimeError("boom")
            if kind == "is slow":
                await asyncio.sleep(5)
            if kind == "stops half-way":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"o", "more_body": True})

        with pytest.raises(TimedOut if kind == "is slow" else Ambiguous):
            await AsgiOutbound({"a:1": app}).send(asking(timeout=0.05))
