"""A server that answers as AWS is documented to, or breaks: what no stand-in does on request.

Owns a script of answers, one a request, and what was asked. Refuses to know which service it plays.
"""

import asyncio
import json
import struct

NAMESPACE = "com.amazonaws.dynamodb.v20120810#"
HANGS, CLOSES, RESETS, CUT, GARBAGE = "hangs", "closes", "resets", "is cut", "is garbage"


def error(status, code, message="", **more):
    """An error as DynamoDB words it."""
    return status, json.dumps({"__type": NAMESPACE + code, "message": message, **more}).encode()


def fine(**body):
    return 200, json.dumps(body).encode()


class Answers:
    """Plays `script`, and with `behind` passes a request on to a real server first: an answer that is lost on its way.

    `passed` counts the requests that the real server has answered.
    """

    def __init__(self, *script, behind=None):
        self.script, self.asked, self.behind, self.passed = list(script), [], behind, 0
        self.open, self.serving = set(), set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._begun, "127.0.0.1", 0, limit=1 << 24)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for writer in self.open:  # Server.close_clients came with Python 3.13
            writer.transport.abort()
        for serving in self.serving:
            serving.cancel()
        await asyncio.gather(*self.serving, return_exceptions=True)
        await self.server.wait_closed()

    @property
    def bodies(self):
        return [json.loads(body) for _, _, body in self.asked]

    def _begun(self, reader, writer):
        self.open.add(writer)
        self.serving.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                line, *rows = head.decode().rstrip().split("\r\n")
                headers = {name.lower(): value for name, value in (row.split(": ", 1) for row in rows)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.asked.append((line, headers, body))
                if self.behind is not None:
                    passed = await self._pass_on(head, body)
                    self.passed += 1
                act = self.script.pop(0) if self.script else None
                if act is None:
                    writer.write(passed)
                elif not await self._play(act, writer):
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _play(self, act, writer):
        """Whether the connection lives on."""
        if isinstance(act, tuple):
            status, body, *headers = act
            more = "".join(f"{name}: {value}\r\n" for name, value in (headers[0] if headers else {}).items())
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body)
            return True
        if act == HANGS:
            await asyncio.sleep(3600)
        if act == RESETS:
            writer.transport.get_extra_info("socket").setsockopt(*LINGER)
            writer.transport.abort()
        if act == CUT:
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"Attributes": ')
        if act == GARBAGE:
            writer.write(b"220 mail.example.com ESMTP\r\n")
        return False

    async def _pass_on(self, head, body):
        host, port = self.behind.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        return answer.replace(b"\r\nconnection: close", b"", 1).replace(b"\r\nConnection: close", b"", 1)


LINGER = (1, 13, struct.pack("ii", 1, 0))
"""SOL_SOCKET, SO_LINGER, no time: closing is a reset."""
