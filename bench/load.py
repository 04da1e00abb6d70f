"""A canned upstream and a load generator in one epoll loop, as light as Python allows.

Owns sockets and counting. Refuses to know what is measured: it sends the requests that it is given, and answers every
request with the same bytes.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

READ = 1 << 18


@dataclass(slots=True)
class Client:
    """One connection that asks again as soon as it was answered."""

    sock: socket.socket
    request: bytes
    got: bytearray = field(default_factory=bytearray)
    begun: int = 0
    first: int = 0
    need: int = -1


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of a run: seconds, nanoseconds of each call (whole, and to its first byte), statuses, last head."""

    seconds: float
    whole: list[int]
    first: list[int]
    statuses: dict[bytes, int]
    heads: list[bytes]


class Load:
    """The loop. `upstream` is where the canned answer is to be had."""

    def __init__(self, answer: bytes, stream: bytes = b"") -> None:
        self._answer, self._stream = answer, stream
        self._epoll = select.epoll()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self._epoll.register(self._listener, select.EPOLLIN)
        self._served: dict[int, tuple[socket.socket, bytearray]] = {}
        self._clients: dict[int, Client] = {}
        self.upstream: str = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = b""

    def run(self, port: int, requests: Sequence[bytes], calls: int, most: float = 120) -> Result:
        """Make `calls` calls over as many connections as there are requests, each as soon as the one before ended."""
        result = Result(seconds=0, whole=[], first=[], statuses={}, heads=[])
        self._connect(port, requests)
        begun, sent = time.perf_counter(), 0
        for client in self._clients.values():
            sent += 1
            self._ask(client)
        left, until = calls, time.monotonic() + most
        while left:
            for descriptor, _ in self._epoll.poll(1):
                asked = self._clients.get(descriptor)
                if asked is None:
                    self._serve(descriptor)
                elif self._answered(asked, result):
                    left -= 1
                    if sent < calls:
                        sent += 1
                        self._ask(asked)
                    elif not left:
                        break
            if time.monotonic() > until:
                raise TimeoutError(f"{left} of {calls} calls were not answered; {result.statuses}")
        result.seconds = time.perf_counter() - begun
        self.drop()
        return result

    def drop(self) -> None:
        """Let go of the clients' connections."""
        for client in self._clients.values():
            self._epoll.unregister(client.sock)
            client.sock.close()
        self._clients.clear()

    def _connect(self, port: int, requests: Sequence[bytes]) -> None:
        for request in requests:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._clients[sock.fileno()] = Client(sock, request)
            self._epoll.register(sock, select.EPOLLIN)

    def serve_for(self, seconds: float) -> None:
        """Answer the upstream's requests only."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for descriptor, _ in self._epoll.poll(left):
                self._serve(descriptor)

    def _ask(self, client: Client) -> None:
        client.begun = time.perf_counter_ns()
        client.first = 0
        sent = client.sock.send(client.request)
        if sent < len(client.request):
            client.sock.setblocking(True)
            client.sock.sendall(client.request[sent:])
            client.sock.setblocking(False)

    def _answered(self, client: Client, result: Result) -> bool:
        data = client.sock.recv(READ)
        now = time.perf_counter_ns()
        client.got += data
        if client.need < 0:
            end = client.got.find(b"\r\n\r\n")
            if end < 0:
                if not data:
                    raise ConnectionError("the gateway closed a connection")
                return False
            head = bytes(client.got[:end]).lower()
            client.need = _length(head, end)
            status = head[9:12]
            result.statuses[status] = result.statuses.get(status, 0) + 1
            if len(result.heads) < 4096:
                result.heads.append(head)
        if not client.first and len(client.got) > client.got.find(b"\r\n\r\n") + 4:
            client.first = now
        whole = client.got.endswith(b"0\r\n\r\n") if client.need == 0 else len(client.got) >= client.need
        if not whole:
            return False
        result.whole.append(now - client.begun)
        result.first.append((client.first or now) - client.begun)
        client.got.clear()
        client.need = -1
        return True

    def _serve(self, descriptor: int) -> None:
        if descriptor == self._listener.fileno():
            sock, _ = self._listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self._served[sock.fileno()] = (sock, bytearray())
            self._epoll.register(sock, select.EPOLLIN)
            return
        sock, got = self._served[descriptor]
        try:
            data = sock.recv(READ)
        except OSError:
            data = b""
        if not data:
            self._epoll.unregister(sock)
            sock.close()
            del self._served[descriptor]
            return
        got += data
        end = got.find(b"\r\n\r\n")
        if end < 0:
            return
        if len(got) < _length(bytes(got[:end]).lower(), end):
            return
        self.asked = bytes(got)
        streamed = self._stream and b'"stream":true' in got
        got.clear()
        self._reply(sock, streamed=bool(streamed))

    def _reply(self, sock: socket.socket, *, streamed: bool) -> None:
        sock.sendall(self._stream if streamed else self._answer)


def _length(head: bytes, end: int) -> int:
    """Bytes of the whole message; 0 where it is chunked."""
    at = head.find(b"content-length:")
    if at < 0:
        return 0 if b"transfer-encoding: chunked" in head else end + 4
    stop = head.find(b"\r\n", at)
    return end + 4 + int(head[at + 15 : stop if stop > 0 else len(head)])
