"""A toy application that shows what arrived, for the hosts' tests. Knows nothing of any host."""

import asyncio
import base64
import json
import os
import time


class EchoApplication:
    def __init__(self, environ, limits):
        self.environ = environ
        self.limits = limits
        self.served = 0
        self.closed = False

    async def __call__(self, scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.served += 1
        status, headers, answer = await self.answer(scope, body)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        # Two messages: an application may send its body in pieces.
        await send({"type": "http.response.body", "body": answer[:7], "more_body": True})
        await send({"type": "http.response.body", "body": answer[7:]})

    async def tick(self, seconds):
        self.ticked = seconds
        if self.environ.get("TICK") == "fails":
            raise RuntimeError("no store")
        return 7

    async def close(self):
        self.closed = True

    async def answer(self, scope, body):
        match scope["path"].strip("/").split("/"):
            case ["cookies"]:
                pairs = [(b"set-cookie", b"a=1; Path=/; HttpOnly"), (b"set-cookie", b"b=2; Path=/")]
                return 200, [(b"content-type", b"text/plain"), *pairs], b"two cookies"
            case ["twice"]:
                pairs = [(b"vary", b"origin"), (b"vary", b"accept")]
                return 200, [(b"content-type", b"text/plain; charset=utf-8"), *pairs], "größer".encode()
            case ["binary"]:
                return 200, [(b"content-type", b"application/octet-stream")], bytes(range(256))
            case ["mirror"]:
                return 201, [(b"content-type", b"application/json")], body
            case ["empty"]:
                return 204, [(b"content-type", b"application/json")], b""
            case ["large", size]:
                return 200, [(b"content-type", b"text/plain")], b"x" * int(size)
            case ["slow", seconds]:
                await asyncio.sleep(float(seconds))
                return 200, [(b"content-type", b"text/plain")], str(os.getpid()).encode()
            case ["block", seconds]:
                time.sleep(float(seconds))
                return 200, [], b""
            case ["boom"]:
                raise ValueError("boom")
            case ["exit"]:
                os._exit(3)
            case ["environ", name]:
                return 200, [(b"content-type", b"text/plain")], self.environ.get(name, "").encode()
        return (
            200,
            [(b"content-type", b"application/json"), (b"x-served", str(self.served).encode())],
            self.shown(scope, body),
        )

    def shown(self, scope, body):
        headers = sorted((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        document = {
            "method": scope["method"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": headers,
            "body": base64.b64encode(body).decode(),
            "deadline": scope.get("extensions", {}).get("buspass.deadline"),
            "request_bytes": self.limits.request_bytes,
        }
        return json.dumps(document, sort_keys=True).encode()


async def start(environ, limits):
    await asyncio.sleep(0)
    return EchoApplication(environ, limits)
