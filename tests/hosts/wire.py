"""A connection without a socket, and an application that answers by a script: what tests of a server's protocol share."""

import asyncio

import uvicorn
from uvicorn.server import ServerState

from buspass.http.asgi import AT_HAND
from buspass_onprem.heads import joined, lines
from buspass_onprem.intake import Intake

DATE = (b"date", b"Fri, 27 Nov 2026 14:40:02 GMT")


class Wire(asyncio.Transport):
    """A connection that goes nowhere: keeps what is written, by write."""

    def __init__(self):
        super().__init__()
        self.writes, self.closed, self.reading = [], False, True
        self.held, self.aborted = 0, False

    def write(self, data):
        self.writes.append(bytes(data))

    def writelines(self, data):
        self.write(b"".join(data))

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = self.aborted = True

    def get_write_buffer_size(self):
        return self.held

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class Side:
    """One protocol over a wire of its own, with an application that notes what it is asked and answers by the script."""

    def __init__(self, kind, script=(), application=None):
        self.script, self.seen = list(script), []
        serves = application or self.scripted
        config = uvicorn.Config(serves, interface="asgi3", lifespan="off", ws="none", log_config=None)
        self.state, self.wire = ServerState(), Wire()
        self.state.default_headers = [DATE]
        self.protocol = kind(config=config, server_state=self.state, app_state={}, _loop=asyncio.get_running_loop())
        self.protocol.connection_made(self.wire)

    async def scripted(self, scope, receive, send):
        said = self.script.pop(0)
        at_hand = scope.get(AT_HAND) if said.get("at_hand") else None
        body, more = b"", not said.get("early")
        if at_hand is not None and (there := at_hand.fetch()) is not None:
            body, more = there, False
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.seen.append("gone")
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        told = {name: scope[name] for name in ("method", "path", "raw_path", "query_string", "http_version", "scheme")}
        headers = [pair for pair in joined(scope["headers"]) if pair[0] != b"x-trailer"]  # uvicorn takes it for one
        self.seen.append((told, headers, body))
        own = {name.lower() for name, _ in said["headers"]} & {b"content-length", b"connection"}
        if at_hand is not None and len(said["pieces"]) == 1 and own == {b"content-length"}:
            at_hand.answer(said["status"], lines(said["headers"])[0], said["pieces"][0])
            return
        await send({"type": "http.response.start", "status": said["status"], "headers": said["headers"]})
        for number, piece in enumerate(said["pieces"]):
            if said.get("slow"):
                await asyncio.sleep(0)
            if said.get("fails") == number:
                raise RuntimeError("as it was told")
            await send({"type": "http.response.body", "body": piece, "more_body": number + 1 < len(said["pieces"])})

    async def say(self, data):
        if not self.wire.closed:
            self.protocol.data_received(data)
        for _ in range(40):
            await asyncio.sleep(0)

    async def over(self):
        """End the connection; gives all that was written, whether it was closed, what the application saw."""
        written, closed = b"".join(self.wire.writes), self.wire.closed
        self.protocol.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not self.state.tasks
        assert not self.state.connections
        return written, closed, self.seen


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
DATED = b"HTTP/1.1 %b\r\ndate: Fri, 27 Nov 2026 14:40:02 GMT\r\n"
OK, BAD, FAILED = (DATED % status for status in (b"200 OK", b"400 Bad Request", b"500 Internal Server Error"))
LENGTH = [(b"content-length", b"2")]


def said(headers=LENGTH, pieces=(b"ok",), **more):
    return {"status": 200, "headers": headers, "pieces": pieces, **more}


def post(*heads, body=b""):
    return b"".join(line + b"\r\n" for line in (b"POST / HTTP/1.1", b"Host: x", *heads, b"")) + body


def written(side):
    return b"".join(side.wire.writes)


async def turns():
    for _ in range(20):
        await asyncio.sleep(0)


def serving(application):
    return Side(Intake, application=application)


async def start(send, headers=LENGTH, status=200):
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def piece(send, body=b"ok", *, more=False):
    await send({"type": "http.response.body", "body": body, "more_body": more})
