"""A toy application that streams, for the hosts' tests. Knows nothing of any host.

Each stream has a name. Before its Nth event it waits for the file NAME-N in SSE_FOLDER, and it leaves NAME-gone or
NAME-done there: files, because a host may run several processes.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from urllib.parse import parse_qs

FOLDER = Path(os.environ.get("SSE_FOLDER", "/nonexistent"))
EVENT_STREAM = [(b"content-type", b"text/event-stream"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]


class StreamingApplication:
    def __init__(self, environ, limits):
        self.limits = limits

    async def __call__(self, scope, receive, send):
        path = scope["path"].strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        while (await receive()).get("more_body"):
            pass
        await getattr(self, path[0])(path[1], query, scope, receive, send)

    async def close(self):
        if FOLDER.is_dir():
            (FOLDER / f"closed-{os.getpid()}").touch()

    async def stream(self, name, query, scope, receive, send):
        """`events` of them, each when the test says so; `break` raises after as many."""
        gone = asyncio.ensure_future(self.watch(receive))
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
        try:
            for number in range(1, int(query.get("events", 3)) + 1):
                while not gone.done() and not (FOLDER / f"{name}-{number}").exists() and "free" not in query:
                    await asyncio.wait([gone], timeout=0.005)
                if gone.done():
                    (FOLDER / f"{name}-gone").touch()
                    return
                if query.get("break") == str(number):
                    raise ValueError("broken in mid-stream")
                event = f'data: {{"n": {number}, "pid": {os.getpid()}}}\n\n'.encode()
                await send({"type": "http.response.body", "body": event, "more_body": True})
        finally:
            gone.cancel()
        (FOLDER / f"{name}-done").touch()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def watch(self, receive):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def big(self, size, query, scope, receive, send):
        """As many bytes in chunks of 64 KiB."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        left = int(size)
        while left:
            chunk = b"x" * min(left, 65536)
            left -= len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def plain(self, name, query, scope, receive, send):
        """Whole, with what the host said of its limits."""
        shown = {
            "deadline": scope.get("extensions", {}).get("buspass.deadline"),
            "trace": os.environ.get("_X_AMZN_TRACE_ID"),
            "headers": sorted(name.decode() for name, _ in scope["headers"]),
            "response_bytes": self.limits.response_bytes,
        }
        body = json.dumps(shown).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def early(self, kind, query, scope, receive, send):
        """What goes wrong before the first byte."""
        if kind == "none":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if kind == "exit":
            sys.stderr.flush()
            os._exit(3)
        if kind == "late":
            await asyncio.sleep(60)
        raise ValueError("broken before the first byte")


async def start(environ, limits):
    return StreamingApplication(environ, limits)


async def broken_start(environ, limits):
    raise OSError("the store is out of reach")
