"""What is at hand whole on the on-prem host, and how long what is not may take to come."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import GET, OK, Side, piece, post, said, serving, start, turns, written

from buspass.errors import Problem
from buspass.http.asgi import AT_HAND, Request, Response
from buspass.http.exchange import at_hand, body
from buspass_onprem.intake import BODY_TIME, HEAD_TIME, TAKE_TIME, Intake

NAMES = st.sampled_from(["ETag", "Buspass-Cost", "server-timing", "X-A"])
VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=10)


@settings(max_examples=60)
@given(
    st.binary(max_size=20),
    st.sampled_from([200, 201, 404, 503]),
    st.dictionaries(NAMES, VALUES),
    st.sampled_from([GET, GET.replace(b"GET", b"HEAD"), post(b"Connection: close"), GET.replace(b"1.1", b"1.0")]),
)
def test_an_answer_at_hand_is_what_its_messages_would_have_been(content, status, more, asked):
    async def by_messages(scope, receive, send):
        await Response(content, status, b"text/plain", more)(receive, send)

    async def at_once(scope, receive, send):
        answer = Response(content, status, b"text/plain", more)
        scope[AT_HAND].answer(answer.status, answer.lines(), answer.body)

    async def served(application):
        side = serving(application)
        await side.say(asked)
        return side.wire.writes, side.wire.closed

    assert asyncio.run(served(at_once)) == asyncio.run(served(by_messages))


@pytest.mark.parametrize("broken", ["a\r\nset-cookie: b", "\r", "a\n", "\0", "\r\n"])
def test_no_value_of_an_answer_ends_its_line(broken):
    Response(b"", 200, b"text/plain", {"X-A": "fine"}).lines()
    for more in ({"X-A": broken}, {"X-B": "b", "X-A": broken}):
        with pytest.raises(ValueError, match="may not end its line"):
            Response(b"", 200, b"text/plain", more).lines()
    with pytest.raises(ValueError, match="may not end its line"):
        Response(b"", 200, broken.encode(), {}).lines()


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "ä", "Content-Length", "connection", "Transfer-Encoding"])
def test_an_answer_has_no_other_names_than_those_of_headers_and_frames_nothing(name):
    with pytest.raises(ValueError, match="no header of an answer's own"):
        Response(b"", 200, b"text/plain", {name: "a"}).lines()


@pytest.mark.parametrize("pieces", [[b""], [b"abcd"], [b"abcde"], [b"abcdefgh"], [b"ab", b"cd"], [b"abc", b"def"]])
async def test_a_body_that_is_at_hand_is_what_it_would_have_been(pieces):
    found = []

    async def application(scope, receive, send):
        request = Request(scope, receive)
        try:
            there = at_hand(request, 4)
            found.append(await body(request, 4) if there is None else there)
        except Problem as problem:
            found.append(problem.code)
        await start(send)
        await piece(send)

    whole = b"".join(pieces)
    side = serving(application)
    await side.say(post(b"Content-Length: %d" % len(whole), body=pieces[0]))
    for more in pieces[1:]:
        await side.say(more)
    assert found == ["request_too_large" if len(whole) > 4 else whole]
    assert written(side).endswith(b"ok")


async def test_a_body_of_which_a_part_was_had_is_not_at_hand():
    async def application(scope, receive, send):
        side.seen.append((await receive())["body"])
        await turns()
        side.seen.append(scope[AT_HAND].fetch())
        side.seen.append((await receive())["body"])
        side.seen.append(scope[AT_HAND].fetch())

    side = serving(application)
    await side.say(post(b"Content-Length: 2", body=b"a"))
    side.protocol.data_received(b"b")
    await turns()
    await turns()
    assert side.seen == [b"a", None, b"b", None]


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def passes(monkeypatch):
    """Let so many seconds pass on the event loop's clock."""
    loop = asyncio.get_running_loop()
    now = [loop.time()]
    monkeypatch.setattr(loop, "time", lambda: now[0])

    async def later(seconds):
        now[0] += seconds
        await turns()

    return later


IDLE = 5
"""Seconds, as uvicorn's configuration has them unless told otherwise."""
COMING = {
    "nothing": ([], HEAD_TIME),
    "a head": ([b"GET / HT", b"TP/1.1\r\n", b"X-A: a\r\n"], HEAD_TIME - 2),
    "a body": ([post(b"Content-Length: 9"), b"a", b"b"], BODY_TIME - 2),
    "the next head": ([GET + b"GET / HT", b"TP/1.1\r\n", b"X-A: a\r\n"], HEAD_TIME - 2),
    "the next": ([GET], IDLE),
    "the rest of what was answered": ([GET, post(b"Content-Length: 9"), b"a"], BODY_TIME - 1),
    "the next after such a rest": ([post(b"Content-Length: 2"), b"ab"], IDLE),
}
"""What is read, a second between, and how many more there are then."""


@pytest.mark.parametrize(("reads", "left"), COMING.values(), ids=COMING)
async def test_what_does_not_come_in_time_ends_the_connection(passes, reads, left):
    side = Side(Intake, [said(early=True)] * 2)
    for read in reads:
        await passes(1)
        await side.say(read)
    await passes(left - 0.1)
    assert not side.wire.closed
    await passes(0.2)
    assert side.wire.closed


def waiting(goes_on):
    """A side whose application answers once it may."""

    async def application(scope, receive, send):
        await goes_on.wait()
        await start(send)
        await piece(send)

    return serving(application)


@pytest.mark.parametrize("whole", [GET, post(b"Content-Length: 1", body=b"a")])
async def test_an_answer_may_take_its_time_and_the_connection_is_idle_after_it(passes, whole):
    goes_on = asyncio.Event()
    side = waiting(goes_on)
    await side.say(whole)
    for _ in range(5):
        await passes(400)
    assert not side.wire.closed
    goes_on.set()
    await turns()
    await passes(IDLE - 1)
    assert (side.wire.closed, written(side)[-2:]) == (False, b"ok")
    await passes(2)
    assert side.wire.closed


async def test_a_head_that_comes_late_behind_another_does_not_cut_its_answer_off(passes):
    goes_on = asyncio.Event()
    side = waiting(goes_on)
    await side.say(GET + b"GET / HT")
    await passes(HEAD_TIME + 1)
    assert not side.wire.closed
    goes_on.set()
    await turns()
    assert written(side) == OK + b"content-length: 2\r\nconnection: close\r\n\r\nok"
    assert side.wire.closed


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("taken", [0, 1])
async def test_an_answer_is_lost_once_nothing_of_it_is_taken(passes, closing, taken):
    side = waiting(asyncio.Event())
    await side.say(GET)
    side.wire.held = 10
    side.protocol.pause_writing()
    if closing:
        side.protocol.close()
    for _ in range(5):
        await passes(TAKE_TIME - 1)
        assert not side.wire.aborted
        side.wire.held -= taken
        await passes(2)
        assert side.wire.aborted is not bool(taken)
        if not taken:
            return
    await passes(TAKE_TIME)
    assert side.wire.aborted


@pytest.mark.parametrize("closing", [False, True])
async def test_an_answer_that_goes_on_has_all_its_time_again(passes, closing):
    side = waiting(asyncio.Event())
    await side.say(GET)
    side.wire.held = 10
    side.protocol.pause_writing()
    await passes(TAKE_TIME - 1)
    if closing:
        side.protocol.close()
    side.protocol.resume_writing()
    await passes(2)
    assert side.wire.aborted is closing, "what is to be closed gets no more to be taken"
    side.protocol.connection_lost(None)
    side.wire.aborted = False
    await passes(2 * TAKE_TIME)
    assert not side.wire.aborted


@pytest.mark.parametrize("lost", [False, True])
async def test_what_is_left_at_the_end_has_its_time_too(passes, lost):
    side = waiting(asyncio.Event())
    side.wire.held = 10
    side.protocol.close()
    if lost:
        side.protocol.connection_lost(None)
    await passes(TAKE_TIME + 1)
    assert side.wire.aborted is not lost
