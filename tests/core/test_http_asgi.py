"""A request, an answer and paths, below what any route makes of them."""

import asyncio

import pytest

from buspass.http.app import ROUTES, _envelope
from buspass.http.asgi import Paths, Request, Response, within
from buspass.http.exchange import BODY_BYTES, Flowing, body, failed
from buspass.http.operation import UNSERVED

PATHS = Paths([("/v1/tasks/{id}", "task"), ("/a.b/{alias:path}/chat", "chat"), ("/v1/tasks/{id}/kill", "kill")])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v1/tasks/t_1", ("task", {"id": "t_1"})),
        ("/v1/tasks/t_1/kill", ("kill", {"id": "t_1"})),
        ("/v1/tasks/", None),
        ("/v1/tasks/t_1/", None),
        ("/v1/tasks/t_1\n", ("task", {"id": "t_1\n"})),
        ("/x/v1/tasks/t_1", None),
        ("/a.b/one/two/chat", ("chat", {"alias": "one/two"})),
        ("/aXb/one/chat", None),
    ],
)
def test_a_template_fits_whole_paths_only_and_says_what_stands_at_its_names(path, found):
    assert PATHS.find(path) == found


def test_every_template_that_is_served_or_refused_by_name_fits_itself():
    templates = [row.path for row in ROUTES] + list(UNSERVED)
    served = Paths([(template, template) for template in templates])
    for template in templates:
        assert served.find(template.replace("{", "").replace("}", "").replace(":path", "")) is not None


def test_a_problem_is_said_in_the_envelope_that_its_row_promises():
    assert [row.path for row in ROUTES if row.envelope != _envelope(row.path)] == []


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("", "/v1/x", "/v1/x"),
        ("/gate", "/gate/v1/x", "/v1/x"),
        ("/gate", "/gateway", "/gateway"),
        ("/gate", "/gate", ""),
    ],
)
def test_a_path_is_read_below_where_the_application_is_mounted(root, path, below):
    assert within({"path": path, "root_path": root}) == below


def test_the_first_of_repeated_headers_counts_and_of_repeated_parameters_the_last():
    scope = {
        "headers": [(b"if-match", b'"a"'), (b"if-match", b'"b"')],
        "query_string": b"limit=1&limit=2&after=&name=a%20b",
    }
    request = Request(scope, _never)
    assert request.header(b"if-match") == '"a"'
    assert request.header(b"etag", "none") == "none"
    assert request.fields(b"if-match") == ['"a"', '"b"']
    assert request.query == {"limit": "2", "after": "", "name": "a b"}


@pytest.mark.parametrize("length", [b"1000001", b"9" * 5000])
async def test_a_body_that_says_it_is_too_long_is_not_waited_for(length):
    with pytest.raises(Exception, match=f"larger than {BODY_BYTES} bytes"):
        await body(Request({"headers": [(b"content-length", length)]}, _never))


async def test_a_body_in_pieces_is_one_and_bounded_without_its_length():
    pieces = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.request", "body": b"c"}]

    async def receive():
        return pieces.pop(0)

    assert await body(Request({"headers": []}, receive)) == b"abc"
    pieces.extend([{"type": "http.request", "body": b"ab", "more_body": True}] * 2)
    with pytest.raises(Exception, match="larger than 3 bytes"):
        await body(Request({"headers": []}, receive), 3)


async def test_an_answer_is_never_kept_on_the_way_and_says_its_length():
    sent = []

    async def send(message):
        sent.append(message)

    await Response(b"{}", 201, b"application/json", {"Buspass-Cost": "0.1"})(_never, send)
    head, rest = sent
    assert head["status"] == 201
    assert dict(head["headers"]) == {
        b"content-length": b"2",
        b"content-type": b"application/json",
        b"cache-control": b"no-store",
        b"buspass-cost": b"0.1",
    }
    assert rest["body"] == b"{}"


def test_what_nobody_foresaw_tells_nothing(caplog):
    answer = failed(Request({"headers": [], "method": "GET", "path": "/x"}, _never), KeyError("a secret"), "problem")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "a secret" in caplog.text


class Client:
    """Takes a stream, and may hang up."""

    def __init__(self, *, breaks=False):
        self.took, self.left, self._breaks = [], asyncio.Event(), breaks

    async def receive(self):
        await self.left.wait()
        if self._breaks:
            raise RuntimeError("the connection is nobody's any more")
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.took.append(message.get("body", message["type"]))


async def words(told, *, waits):
    try:
        yield b"one"
        if waits:
            await asyncio.Event().wait()
        yield b"two"
    finally:
        told.append("closed")


async def test_a_stream_begins_with_its_first_piece_at_once_and_is_closed_at_its_end():
    told, client = [], Client()
    flowing = Flowing(words(told, waits=False), {"Buspass-Cost": "0"})
    await flowing(client.receive, client.send)
    assert client.took == ["http.response.start", b"one", b"two", b""]
    assert told == ["closed"]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_client_that_hangs_up_ends_its_stream_and_nothing_else(breaks):
    told, client = [], Client(breaks=breaks)
    sending = asyncio.ensure_future(Flowing(words(told, waits=True), {})(client.receive, client.send))
    while client.took != ["http.response.start", b"one"]:
        await asyncio.sleep(0)
    client.left.set()
    await sending  # it is no error, and the one who serves goes on
    assert told == ["closed"]
    assert client.took == ["http.response.start", b"one"]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_host_that_stops_is_not_taken_for_a_client_that_hung_up(hangs_up):
    told, client = [], Client()
    sending = asyncio.ensure_future(Flowing(words(told, waits=True), {})(client.receive, client.send))
    while client.took != ["http.response.start", b"one"]:
        await asyncio.sleep(0)
    if hangs_up:
        client.left.set()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert told == ["closed"]


async def _never():
    raise AssertionError("nobody waits for this")
