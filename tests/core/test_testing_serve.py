"""A server on loopback answers at once: asyncio lets small packets wait on a socket that does not say it is TCP."""

import socket

import uvicorn

from buspass.testing.serve import serving


async def test_what_a_server_accepts_sends_without_delay(monkeypatch):
    protocols, serve = [], uvicorn.Server.serve

    async def watched(self, sockets=None):
        protocols.extend(listener.proto for listener in sockets)
        await serve(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "serve", watched)
    async with serving(None):
        assert protocols == [socket.IPPROTO_TCP]
