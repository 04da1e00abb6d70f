"""Bursts: many requests at once to an upstream that keeps every answer back until the burst has come to rest.

Owns when the upstream answers. Refuses to know what is measured.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence

from load import Client, Load, Result

QUIET = 3.0
"""Seconds without an answer, a refusal or a new request after which a burst has come to rest."""


class Varied(Load):
    """A load whose connections take turns through many requests, so that no two in a row are alike."""

    cycle: Iterator[bytes] | None = None

    def _ask(self, client: Client) -> None:
        if self.cycle is not None:
            client.request = next(self.cycle)
        super()._ask(client)


class Held(Varied):
    """While `burst` runs, a plain answer waits whole, and a stream gives its first event and waits with the rest."""

    holding = False
    arrived = 0

    def __init__(self, answer: bytes, stream: bytes = b"") -> None:
        super().__init__(answer, stream)
        self._kept: list[tuple[socket.socket, bytes]] = []

    def answering(self, answer: bytes) -> None:
        self._answer = answer

    def _reply(self, sock: socket.socket, *, streamed: bool) -> None:
        self.arrived += 1
        if not self.holding:
            super()._reply(sock, streamed=streamed)
            return
        data = self._stream if streamed else self._answer
        first = data.find(b"\n\n\r\n", data.find(b"\r\n\r\n") + 4) + 4 if streamed else 0
        sock.sendall(data[:first])
        self._kept.append((sock, data[first:]))

    def burst(self, port: int, requests: Sequence[bytes], quiet: float = QUIET, most: float = 90) -> tuple[Result, int]:
        """Send every request at once. Gives what came of them, and how many were under way when the upstream let go.

        It lets go when every request has been answered or has its first byte or waits here, or when nothing has moved
        for `quiet` seconds.
        """
        result = Result(seconds=0, whole=[], first=[], statuses={}, heads=[])
        self._connect(port, requests)
        clients = dict(self._clients)
        self.holding, self.arrived, begun = True, 0, time.monotonic()
        for client in clients.values():
            self._ask(client)
        done, moved, under_way = 0, time.monotonic(), -1
        while done < len(requests):
            events = self._epoll.poll(0.05)
            now = time.monotonic()
            for descriptor, _ in events:
                moved = now
                if descriptor in self._clients:
                    done += self._answered(self._clients[descriptor], result)
                else:
                    self._serve(descriptor)
            begun_streams = sum(bool(client.first) for client in clients.values()) if self._stream else 0
            come = max(begun_streams, done + len(self._kept))
            settled = now - moved > quiet and (done or self._kept)
            if under_way < 0 and (settled or self._all(begun_streams, come, len(requests))):
                under_way = len(self._kept)
                self._let_go()
            if now - begun > most:
                break
        result.seconds = time.monotonic() - begun
        self.drop()
        self.holding = False
        return result, under_way

    def _all(self, begun_streams: int, come: int, wanted: int) -> bool:
        streams = any(rest and not rest.startswith(b"HTTP") for _, rest in self._kept)
        return (begun_streams if streams else come) >= wanted

    def _let_go(self) -> None:
        self.holding = False
        for sock, rest in self._kept:
            sock.sendall(rest)
        self._kept.clear()
