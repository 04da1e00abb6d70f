"""What a connection of ours makes of bytes, beside uvicorn's own: the same answers to the same requests, in fewer writes."""

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from wire import Side

from buspass_onprem.intake import Intake

NAMES = (b"x-a", b"Server-Timing", b"etag", b"Buspass-Cost", b"set-cookie")


VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=12).map(
    lambda text: text.strip("\xa0 ").encode("latin-1")
)
TARGETS = st.builds(
    lambda path, query: path + query,
    st.sampled_from([b"/", b"/v1/x", b"/a%20b", b"/%C3%BC%ff", b"//x", b"/v1/tools/a%2Fb", b"http://h/x", b"/x;y=1"]),
    st.sampled_from([b"", b"?", b"?a=1&b=%20", b"?a?b", b"#f", b"?q#f"]),
)


@st.composite
def requests(draw):
    """A request, as bytes."""
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS"]))
    version = draw(st.sampled_from([b"1.1"] * 8 + [b"1.0"]))
    more = draw(st.lists(st.tuples(st.sampled_from([b"X-A", b"x-b", b"Cookie", b"Accept"]), VALUES), max_size=4))
    if draw(st.integers(0, 7)) == 0:
        more.append((b"Connection", draw(st.sampled_from([b"close", b"keep-alive", b"Close, x"]))))
    body = draw(st.binary(max_size=40)) if method in (b"POST", b"PUT") else b""
    if body and version == b"1.1" and draw(st.booleans()):
        at = draw(st.integers(0, len(body)))
        chunks = [piece for piece in (body[:at], body[at:]) if piece]
        more.append((b"Transfer-Encoding", b"chunked"))
        trailer = b"X-Trailer: t\r\n" if draw(st.booleans()) else b""
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in chunks) + b"0\r\n" + trailer + b"\r\n"
    elif method in (b"POST", b"PUT"):
        more.append((b"Content-Length", b"%d" % len(body)))
    if version == b"1.1" or draw(st.booleans()):  # without one 1.1 is refused here and not there, see below
        more.insert(0, (b"Host", b"h"))
    lines = b"".join(b"%b: %b\r\n" % pair for pair in more)
    return b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, draw(TARGETS), version, lines, body), version == b"1.0"


@st.composite
def answers(draw, *, length):
    """How the application answers: with a length or without, whole or in pieces, failing somewhere or not."""
    pieces = draw(st.lists(st.binary(max_size=30), min_size=1, max_size=4))
    status = draw(st.sampled_from([200, 200, 201, 299, 404, 429, 500, 599]))
    headers = draw(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=4))
    if draw(st.integers(0, 9)) == 0:
        headers.append((b"Connection", draw(st.sampled_from([b"close", b"x, Close", b"keep-alive"]))))
    if length or draw(st.booleans()):
        headers.insert(draw(st.integers(0, len(headers))), (b"Content-Length", b"%d" % sum(map(len, pieces))))
    said = {"status": status, "headers": headers, "pieces": pieces, "slow": draw(st.booleans())}
    said["at_hand"] = draw(st.booleans())
    if draw(st.integers(0, 9)) == 0:
        said["fails"] = draw(st.integers(1, len(pieces)))
    return said


@st.composite
def conversations(draw):
    """Requests one after another or all at once, cut into reads anywhere, and an answer for each."""
    asked = draw(st.lists(requests(), min_size=1, max_size=4))
    said = [draw(answers(length=old)) for _, old in asked]
    if draw(st.booleans()):
        reads = [request for request, _ in asked]
    else:
        whole = b"".join(request for request, _ in asked)
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=5)))
        reads = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [read for read in reads if read], said


@pytest.fixture(autouse=True)
def quiet():
    """Failures that are asked for need no log."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def both(reads, script):
    found = []
    for kind in (HttpToolsProtocol, Intake):
        side = Side(kind, script)
        for read in reads:
            await side.say(read)
        found.append((await side.over(), side.wire.writes))
    return found


@settings(max_examples=50)
@given(conversations())
def test_the_same_bytes_for_the_same_messages(conversation):
    compare(*conversation)


@pytest.mark.verify
@settings(max_examples=1000)
@given(conversations())
def test_the_same_bytes_for_many_messages(conversation):
    compare(*conversation)


def compare(reads, script):
    (theirs, their_writes), (ours, our_writes) = asyncio.run(both(reads, script))
    assert ours == theirs
    assert len(our_writes) <= len(their_writes)


@pytest.mark.parametrize("hosts", [b"", b"Host: a\r\nHost: b\r\n"], ids=["none", "two"])
def test_a_request_without_one_host_is_answered_there_and_refused_here(hosts):
    """The one difference in what is taken, which RFC 9112 §3.2 asks for: with one Host both answer alike."""
    said = {"status": 200, "headers": [(b"Content-Length", b"2")], "pieces": [b"ok"]}
    told = []
    for named in (hosts, b"Host: a\r\n"):
        found = asyncio.run(both([b"GET / HTTP/1.1\r\n" + named + b"\r\n"], [said]))
        told.append([b"".join(writes).split(b" ")[1] for _, writes in found])
    assert told == [[b"200", b"400"], [b"200", b"200"]]
