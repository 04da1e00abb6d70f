"""What a connection of the on-prem host does by itself: order, framing, pressure both ways, and every way to end."""

import asyncio
import gc
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import BAD, DATE, FAILED, GET, LENGTH, OK, Side, piece, post, said, serving, start, turns, written

from buspass_onprem import heads
from buspass_onprem.heads import lines
from buspass_onprem.intake import UNREAD, Intake


@pytest.fixture(autouse=True)
def quiet():
    """Failures that are asked for need no log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# ── writes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_whole_answer_is_one_write_and_has_left_when_its_request_is_read():
    side = Side(Intake, [said()])
    side.protocol.data_received(GET)
    assert side.wire.writes == [OK + b"content-length: 2\r\n\r\nok"]
    assert not side.state.tasks


async def test_a_large_answer_is_not_copied_behind_its_head():
    body = bytes(200_000)
    side = Side(Intake, [said([(b"content-length", b"200000")], [body])])
    side.protocol.data_received(GET)
    assert side.wire.writes == [OK + b"content-length: 200000\r\n\r\n" + body]


async def test_a_streams_head_leaves_with_its_first_piece_or_by_the_next_turn():
    goes_on = asyncio.Event()

    async def application(scope, receive, send):
        await start(send, [])
        if scope["path"] == "/slow":
            await goes_on.wait()
        await piece(send, b"one", more=True)
        await piece(send, b"two", more=True)
        await piece(send, b"")

    side = serving(application)
    side.protocol.data_received(GET)
    head = OK + b"transfer-encoding: chunked\r\n\r\n"
    assert side.wire.writes == [head + b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    side.protocol.data_received(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert side.wire.writes[3:] == [head], "nothing waits for an event"
    goes_on.set()
    await turns()
    assert side.wire.writes[4:] == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n"]


async def test_the_servers_headers_are_those_of_now():
    side = Side(Intake, [said(), said()])
    side.protocol.data_received(GET)
    side.state.default_headers = [(b"date", b"later")]
    side.protocol.data_received(GET)
    assert [write.split(b"\r\n")[1] for write in side.wire.writes] == [b": ".join(DATE), b"date: later"]


# ── heads ───────────────────────────────────────────────────────────────────────────────────────────────────────────

BREAKS = st.builds(
    lambda before, broken, after: before + broken + after,
    st.binary(max_size=8),
    st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\r\nset-cookie: a=1", b"\n\n<html>"]),
    st.binary(max_size=8),
)
PLAIN = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=8).map(
    lambda text: text.encode("latin-1")
)
PAIRS = st.lists(st.tuples(st.sampled_from([b"x-a", b"X-B", b"etag"]), PLAIN), max_size=3)


@settings(max_examples=60)
@given(PAIRS, BREAKS, PAIRS)
def test_no_value_ends_its_line(before, value, after):
    plain = [*before, *after]
    assert lines(plain)[0] == b"".join(b"\r\n%b: %b" % (name.lower(), text) for name, text in plain)
    for name in (b"x-a", b"content-length"):
        with pytest.raises(ValueError, match="may not end its line"):
            lines([*before, (name, value), *after])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\nb", b"\0", "ä".encode(), b"a\n"])
async def test_a_name_is_a_token(name):
    side = Side(Intake, [said([*LENGTH, (name, b"v")])])
    side.protocol.data_received(GET)
    assert written(side).startswith(FAILED)
    assert side.wire.closed


@pytest.mark.parametrize(
    "headers",
    [[*LENGTH, (b"Content-Length", b"2")], [(b"transfer-encoding", b"chunked")], [(b"content-length", b"two")]],
)
async def test_how_a_body_is_framed_is_said_once_and_right(headers):
    side = Side(Intake, [said(headers)])
    side.protocol.data_received(GET)
    assert written(side).startswith(FAILED)


@pytest.mark.parametrize("status", [204, 304])
async def test_what_has_no_body_says_no_length(status):
    side = Side(Intake, [{**said([], [b""]), "status": status}])
    await side.say(GET)
    assert b"transfer-encoding" not in written(side)
    assert written(side).endswith(b" GMT\r\n\r\n")


async def test_an_old_client_gets_no_chunks_and_the_end_of_the_connection():
    side = Side(Intake, [said([], [b"one", b"two"])])
    await side.say(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (written(side), side.wire.closed) == (OK + b"connection: close\r\n\r\nonetwo", True)


# ── a body's length ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("body", [b"", b"o", b"long"])
async def test_a_body_of_another_length_never_looks_like_a_whole_answer(body):
    side = Side(Intake, [said(pieces=[body])])
    await side.say(GET)
    assert written(side).startswith(FAILED)
    assert side.wire.closed


@pytest.mark.parametrize("last", [b"", b"ong"])
async def test_once_a_part_has_left_the_connection_breaks_off(last):
    side = Side(Intake, [said(pieces=[b"o", last])])
    await side.say(GET)
    assert (written(side), side.wire.closed) == (OK + b"content-length: 2\r\n\r\no", True)


# ── the application fails ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["raises", "returns", "after the head", "is cancelled"])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_failure_before_the_first_byte_is_a_500(how, method):
    async def application(scope, receive, send):
        if how == "is cancelled":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        if how == "after the head":
            await start(send)
        if how != "returns":
            raise RuntimeError(how)

    side = serving(application)
    await side.say(GET.replace(b"GET", method))
    body = b"Internal Server Error" if method == b"GET" else b""
    head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\nconnection: close\r\n\r\n"
    assert (written(side), side.wire.closed) == (FAILED + head + body, True)
    assert not side.state.tasks


@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_a_failure_in_a_stream_breaks_it_off(how):
    async def application(scope, receive, send):
        await start(send, [])
        await piece(send, b"one", more=True)
        if how == "raises":
            raise RuntimeError(how)

    side = serving(application)
    await side.say(GET)
    assert written(side).endswith(b"chunked\r\n\r\n3\r\none\r\n")
    assert side.wire.closed


@pytest.mark.parametrize("order", [["body"], ["start", "start"], ["start", "body", "body"], ["other"]])
async def test_messages_out_of_order_are_an_error_of_the_application(order):
    raised = []

    async def application(scope, receive, send):
        for kind in order:
            try:
                await send({"type": f"http.response.{kind}", "status": 200, "headers": LENGTH, "body": b"ok"})
            except RuntimeError as error:
                raised.append(error)

    await serving(application).say(GET)
    assert len(raised) == 1


# ── order ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def numbered(number):
    return GET.replace(b"/ ", b"/?%d " % number)


async def counting(scope, receive, send):
    """Answer with the request's number."""
    body = scope["query_string"]
    await start(send, [(b"content-length", b"%d" % len(body))])
    await piece(send, body)


def answered(side):
    return [int(write.rpartition(b"\r\n")[2]) for write in side.wire.writes]


async def test_nothing_is_read_while_others_wait_though_somebody_listens():
    async def application(scope, receive, send):
        await receive()
        await receive()

    for more in (GET, b"nonsense\r\n\r\n"):
        side = serving(application)
        await side.say(GET + more)
        assert not side.wire.reading
        await side.over()


async def test_thousands_of_requests_in_one_read_are_answered_in_order():
    side = serving(counting)
    side.protocol.data_received(b"".join(map(numbered, range(3000))))
    assert not side.wire.reading, "nothing more is read while others wait"
    for _ in range(3100):
        await asyncio.sleep(0)
    assert answered(side) == list(range(3000))
    assert side.wire.reading


async def test_a_request_that_comes_while_another_is_about_to_begin_waits_behind_it():
    side = serving(counting)
    side.protocol.data_received(numbered(0) + numbered(1))
    side.protocol.data_received(numbered(2))
    await turns()
    assert answered(side) == [0, 1, 2]


RUBBISH = {"at once": b"\x16\x03\x01\x02\r\n\r\n", "after others": GET + GET + b"nonsense\r\n\r\n"}


@pytest.mark.parametrize("data", RUBBISH.values(), ids=RUBBISH)
async def test_rubbish_is_refused_where_its_turn_is(data):
    side = Side(Intake, [said(slow=True)] * 2)
    await side.say(data)
    *answers, refusal = side.wire.writes
    assert answers == [OK + b"content-length: 2\r\n\r\nok"] * data.count(b"GET")
    assert refusal.startswith(BAD)
    assert refusal.endswith(b"connection: close\r\n\r\nInvalid HTTP request received.")
    assert side.wire.closed


NAMED = (
    b"",
    b" x",
    b" x:8700",
    b" a-b.example.:80",
    b" [::1]:8700",
    b" 127.0.0.1",
    b" x_y.svc.cluster.local",
    b" a%20b",
)
HOSTLESS = {
    "none": b"1.1\r\nX-A: 1",
    "two": b"1.1\r\nHost: x\r\nhost: y",
    "the same twice": b"1.1\r\nHost: x\r\nHost: x",
    "two of an old client's": b"1.0\r\nHost: x\r\nHost: y",
    "two in one": b"1.1\r\nHost: x, y",
    "a path": b"1.1\r\nHost: x/y",
    "a user": b"1.1\r\nHost: u@x",
}


@pytest.mark.parametrize("before", [b"", GET], ids=["at once", "after another"])
@pytest.mark.parametrize("head", HOSTLESS.values(), ids=HOSTLESS)
async def test_a_request_that_names_no_one_host_is_refused_and_the_last_of_its_connection(head, before):
    """RFC 9112 §3.2: what a proxy and this host take for different hosts is how one's rules are gone round."""
    side = Side(Intake, [said()] * 2)
    await side.say(before + b"GET / HTTP/" + head + b"\r\n\r\n" + GET)
    *answers, refusal = side.wire.writes
    assert len(answers) == len(side.seen) == before.count(b"GET")
    assert refusal.startswith(BAD)
    assert side.wire.closed


@pytest.mark.parametrize("head", [b"1.0", b"1.0\r\nHost: x", *(b"1.1\r\nHost:" + name for name in NAMED)], ids=str)
async def test_a_request_that_names_one_host_is_answered_and_a_probe_of_http_1_0_that_names_none(head):
    side = Side(Intake, [said()])
    await side.say(b"GET /health/live HTTP/" + head + b"\r\n\r\n")
    assert written(side).startswith(OK)


@pytest.mark.parametrize("begun", [False, True])
async def test_a_body_that_breaks_is_refused_unless_its_answer_has_begun(begun):
    async def application(scope, receive, send):
        if begun:
            await start(send, [])
            await piece(send, b"one", more=True)
        while (await receive())["type"] != "http.disconnect":
            pass
        side.seen.append("gone")

    side = serving(application)
    await side.say(post(b"Transfer-Encoding: chunked", body=b"2\r\nab\r\n"))
    await side.say(b"zz\r\n")
    assert side.wire.closed
    assert written(side).count(b"HTTP/1.1 ") == 1
    assert written(side).startswith(OK if begun else BAD)
    await side.over()
    assert side.seen == ["gone"]


async def test_a_body_that_breaks_while_it_waits_is_refused_after_those_before_it():
    side = Side(Intake, [said(slow=True)])
    await side.say(GET + post(b"Transfer-Encoding: chunked", body=b"zz\r\n"))
    assert [write.split(b" ")[1] for write in side.wire.writes] == [b"200", b"400"]
    assert len(side.seen) == 1


@pytest.mark.parametrize("body", [b"", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_request_for_another_protocol_is_the_last_of_its_connection(body):
    side = Side(Intake, [said()])
    asks = post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: %d" % len(body))
    side.protocol.data_received(asks)
    side.protocol.data_received(body)
    await turns()
    assert written(side) == OK + b"content-length: 2\r\nconnection: close\r\n\r\nok"
    assert side.wire.closed
    assert [read for _, _, read in side.seen] == [body]


@pytest.mark.parametrize("before", [b"", GET])
@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 3", b"abc"), (b"Transfer-Encoding: chunked", b"1\r\na\r\n2;x\r\nbc\r\n0\r\nX-A: b\r\n\r\n")],
)
async def test_a_request_for_another_protocol_keeps_its_body_wherever_it_is_cut(before, framing, body):
    """Java's own client asks for HTTP/2 with every first request of a connection, and curl --http2 does."""
    asks = before + post(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", framing, b"HTTP2-Settings: AA", body=body
    )
    for cut in range(len(before), len(asks), 3):
        side = Side(Intake, [said()] * 3)
        await side.say(asks[:cut])
        await side.say(asks[cut:] + GET)
        sent, closed, seen = await side.over()
        assert [read for _, _, read in seen] == [b""] * bool(before) + [b"abc"], cut
        assert sent.count(b"HTTP/1.1 200 OK") == len(seen)
        assert sent.endswith(b"connection: close\r\n\r\nok")
        assert closed


async def test_a_body_behind_a_request_for_another_protocol_is_judged_as_any_other():
    side = Side(Intake, [said(slow=True)])
    await side.say(post(b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked", body=b"zz\r\n"))
    assert written(side).startswith(BAD)
    assert side.wire.closed


@pytest.mark.parametrize("version", [b"0.9", b"1.0", b"2.0"])
async def test_only_what_1_1_added_is_done_for_1_1(version):
    """Elsewhere an answer without a length ends with its connection, and nobody waits to be told to go on."""
    side = Side(Intake, [said([])])
    asks = post(b"Connection: keep-alive", b"Expect: 100-continue", b"Content-Length: 1")
    await side.say(asks.replace(b"/1.1", b"/" + version))
    assert written(side) == b""
    await side.say(b"a")
    assert written(side) == OK + b"connection: close\r\n\r\nok"
    assert side.wire.closed


async def test_trailers_are_no_headers_of_this_request_nor_of_the_next():
    side = Side(Intake, [said()] * 2)
    chunked = post(b"Transfer-Encoding: chunked", body=b"1\r\na\r\n0\r\nAuthorization: Bearer b\r\n\r\n")
    await side.say(chunked + GET)
    assert [dict(headers) for _, headers, _ in side.seen] == [
        {b"host": b"x", b"transfer-encoding": b"chunked"},
        {b"host": b"x"},
    ]


def test_a_path_is_remembered_and_a_query_is_not():
    for _ in range(2):
        assert heads.target(b"/a%20b?token=secret") == ("/a b", b"/a%20b", b"token=secret")
        assert heads.target(b"/a%20b") == ("/a b", b"/a%20b", b"")
    assert heads.target(b"/a%20b") is heads.target(b"/a%20b")
    assert "secret" not in str(vars(heads))


async def test_headers_that_come_twice_are_joined():
    seen = []

    async def application(scope, receive, send):
        seen.extend(scope["headers"])
        await start(send)
        await piece(send)

    await serving(application).say(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a\r\nX-A: 1\r\ncookie: b\r\nx-a: 2\r\n\r\n")
    assert seen == [(b"host", b"x"), (b"cookie", b"a; b"), (b"x-a", b"1,2")]


# ── go on ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_client_that_waits_is_told_to_go_on_when_its_body_is_wanted():
    side = Side(Intake, [said()])
    await side.say(post(b"Expect: 100-Continue", b"Content-Length: 1"))
    assert side.wire.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
    await side.say(b"a")
    assert side.seen[0][2] == b"a"
    assert side.wire.writes[1:] == [OK + b"content-length: 2\r\n\r\nok"]


@pytest.mark.parametrize(("body", "early"), [(b"a", False), (b"", True)])
async def test_it_is_not_told_so_when_the_body_has_begun_or_is_not_wanted(body, early):
    side = Side(Intake, [said(early=early)])
    await side.say(post(b"Expect: 100-continue", b"Content-Length: 2", body=body))
    await side.say(b"b")
    assert side.wire.writes == [OK + b"content-length: 2\r\n\r\nok"]


# ── pressure ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("then", ["resumed", "lost", "cancelled"])
async def test_who_sends_more_than_is_taken_waits(then):
    sent = []

    async def application(scope, receive, send):
        await start(send, [])
        for number in range(3):
            await piece(send, b"x", more=True)
            sent.append(number)

    side = serving(application)
    side.protocol.pause_writing()
    await side.say(GET)
    assert sent == []
    if then == "resumed":
        side.protocol.resume_writing()
    elif then == "lost":
        side.protocol.connection_lost(None)
    else:
        for task in side.state.tasks:
            task.cancel()
    await turns()
    assert sent == ([] if then == "cancelled" else [0, 1, 2])
    assert not side.state.tasks
    assert written(side).count(b"1\r\nx\r\n") == {"resumed": 3, "lost": 0, "cancelled": 0}[then]


async def test_a_body_that_nobody_fetches_is_not_read_on():
    fetch, got = asyncio.Event(), []

    async def application(scope, receive, send):
        await fetch.wait()
        more = True
        while more:
            message = await receive()
            got.append(len(message["body"]))
            more = message["more_body"]
        await start(send)
        await piece(send)

    side = serving(application)
    await side.say(post(b"Content-Length: %d" % (3 * UNREAD), body=bytes(UNREAD)))
    assert side.wire.reading
    await side.say(bytes(UNREAD))
    assert not side.wire.reading
    fetch.set()
    await turns()
    assert side.wire.reading
    await side.say(bytes(UNREAD))
    assert got == [2 * UNREAD, UNREAD]
    assert written(side).endswith(b"ok")


async def test_what_is_left_of_a_body_after_its_answer_is_passed_over():
    side = Side(Intake, [said(early=True), said()])
    await side.say(post(b"Content-Length: %d" % (4 * UNREAD), body=bytes(2 * UNREAD)))
    assert side.wire.reading
    await side.say(bytes(2 * UNREAD) + GET)
    assert side.wire.writes == [OK + b"content-length: 2\r\n\r\nok"] * 2


# ── ends ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_stream_sees_its_client_go():
    async def application(scope, receive, send):
        await receive()
        await start(send, [])
        assert (await receive())["type"] == "http.disconnect"
        await piece(send, b"nobody reads this")
        side.seen.append("gone")

    side = serving(application)
    await side.say(GET)
    left, _, seen = await side.over()
    assert (seen, b"nobody" in left) == (["gone"], False)


async def test_after_its_answer_an_application_hears_that_it_is_over():
    async def application(scope, receive, send):
        await receive()
        hears = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        await start(send)
        await piece(send)
        side.seen.append((await hears)["type"])
        side.seen.append((await receive())["type"])

    side = serving(application)
    await side.say(GET)
    assert side.seen == ["http.disconnect"] * 2


async def test_a_stop_closes_what_is_idle_and_lets_what_was_asked_be_answered():
    side = Side(Intake, [said()])
    side.protocol.shutdown()
    assert side.wire.closed
    side = Side(Intake, [said(slow=True), said(slow=True)])
    side.protocol.data_received(GET + GET)
    side.protocol.shutdown()
    assert not side.wire.closed
    await turns()
    assert [b"connection: close" in write for write in side.wire.writes] == [False, True]
    assert side.wire.closed


async def test_an_exchange_leaves_no_cycle_behind():
    side = Side(Intake, [said(slow=slow) for slow in (True, False)] * 20)
    gc.collect()
    gc.disable()
    try:
        for _ in range(40):
            await side.say(GET)
        side.seen.clear()
        assert gc.collect() < 40
    finally:
        gc.enable()
    assert len(side.wire.writes) == 40
