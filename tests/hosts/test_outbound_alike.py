"""An on-prem host's own way out against the driver that the other hosts use: the same bytes out, the same answer in.

Each answer closes its connection: whether the next request would meet a close that nobody announced is a race in both.
"""

import asyncio
import contextlib
import gzip
import random
import zlib

from buspass.ports.outbound import Ambiguous, NotSent, Request
from buspass.ports.outbound_pyreqwest import PyreqwestOutbound
from buspass_onprem.outbound import DirectOutbound

PATHS = ("/", "/v1/chat/completions", "/a%2Fb/c?d=e&f=%20", "/x.y/..z?q=[1]&r='s'", "/~a;b=c/@d:e!$(f)*,+")
NAMES = ("Authorization", "content-type", "X-Odd_Name.1", "idempotency-key", "accept", "user-agent", "traceparent")
VALUES = ("Bearer x", "application/json", "a, b;q=0.5", 'say "x" ~ {y} \\ |', "")


def drawn_request(draw, port, before):
    """Draw a request: half of them like the one before but for one thing, which may be the body."""
    headers = {name: draw.choice(VALUES) for name in draw.sample(NAMES, draw.randrange(len(NAMES)))}
    method = draw.choice(("GET", "POST", "PUT", "PATCH", "DELETE"))
    body = draw.randbytes(draw.choice((0, 1, 800, 70_000))) if method != "GET" else b""
    url = f"http://127.0.0.1:{port}{draw.choice(PATHS)}"
    if before is not None and draw.random() < 0.5:
        given = {"method": before.method, "url": before.url, "headers": before.headers}
        own = {"method": method, "url": url, "headers": headers}
        changed = draw.choice((*given, "body"))
        method, url, headers = ({**given, changed: own[changed]} if changed in given else given).values()
        body = b"" if method == "GET" else body
    return Request(method=method, url=url, headers=headers, body=body, timeout=20.0, limit=100_000)


def drawn_answer(draw):
    """Draw an answer's bytes: mostly good ones, of each way to say where they end."""
    status, body = (
        draw.choice((200, 200, 201, 404, 429, 500)),
        draw.randbytes(draw.choice((0, 1, 500, 90_000, 120_000))),
    )
    head = b"HTTP/1.1 %d Said\r\nConnection: close\r\n" % status + draw.choice(
        (b"", b"X-A: 1\r\nx-a: 2 \r\n", b"Retry-After:  7\r\n")
    )
    if draw.random() < 0.3:
        body, head = gzip.compress(body), head + b"Content-Encoding: gzip\r\n"
    how = draw.choice(("length", "chunked", "end", "none"))
    if how == "length":
        head += b"Content-Length: %d\r\n" % len(body)
    elif how == "chunked":
        head += b"Transfer-Encoding: chunked\r\n"
        cuts = sorted(draw.choices(range(len(body) + 1), k=draw.randrange(4)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"
    elif how == "none":
        head, body = head.replace(b"HTTP/1.1 %d" % status, b"HTTP/1.1 204").replace(b"Content-Encoding", b"x-e"), b""
    if draw.random() < 0.1:
        head = b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + head
    said = head + b"\r\n" + body
    return said[: draw.randrange(len(said))] if draw.random() < 0.1 else said


async def talk(reader, writer, answers, heard):
    """Hear one request, say the next answer in two pieces, and close."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1)[:2] if ": " in line else (line.lower(), "") for line in lines)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        headers.setdefault("content-length", "0")  # of an empty body the one says it, the other does not always
        heard.append((first, headers, zlib.crc32(body), len(body)))
        said = answers[len(heard) - 1]
        for piece in (said[: len(said) // 2], said[len(said) // 2 :]):
            writer.write(piece)
            await writer.drain()
    writer.close()


async def told(outbound, requests, answers):
    """Give what the server heard of each request and what its answer was taken for."""
    heard, got = [], []
    listening = await asyncio.start_server(lambda reader, writer: talk(reader, writer, answers, heard), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    for request in requests(port):
        try:
            response = await outbound.send(request)
            got.append((response.status, dict(response.headers), response.body))
        except NotSent:
            got.append(NotSent)
        except Ambiguous:  # cut short and too large as well: who sees which first is no matter
            got.append(Ambiguous)
    listening.close()
    await outbound.close()
    for _, headers, _, _ in heard:
        headers["host"] = headers["host"].replace(str(port), "PORT")
    return heard, got


async def test_drawn_requests_and_answers_are_the_same_by_both_ways():
    draw = random.Random(6)
    answers = [drawn_answer(draw) for _ in range(200)]
    state = draw.getstate()

    def requests(port):
        draw.setstate(state)
        drawn = [None]
        for _ in answers:
            drawn.append(drawn_request(draw, port, drawn[-1]))
        return drawn[1:]

    one, other = [await told(outbound, requests, answers) for outbound in (DirectOutbound(), PyreqwestOutbound())]
    assert [each[0] for each in one] == [each[0] for each in other]
    for mine, its in zip(one[0], other[0], strict=True):
        assert mine == its
    for answer, mine, its in zip(answers, one[1], other[1], strict=True):
        assert mine == its, answer[:300]
    assert len({each if isinstance(each, type) else each[0] for each in one[1]}) > 5
