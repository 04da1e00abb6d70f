"""How an upstream is reached: its addresses, raced where it has several, and whose certificates are believed.

Owns the origin of a URL, sockets until they are connected, and the authorities. Refuses to know HTTP.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

STAGGER: Final = 0.25
"""Seconds that one address has before the next is tried beside it (RFC 8305 §5)."""
ALIVE: Final = 15
"""Seconds of silence after which the kernel asks whether the other side is there, four times so long apart."""
_PLAIN: Final = re.compile(
    r"(https?)://((?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
    r"|[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
)
_TARGET: Final = re.compile(r"/[!$%&()*+,\-./0-9:;=?@A-Z_a-z~\[\]]*")
_DOTS: Final = re.compile(r"/(?:\.|%2e){1,2}(?:[/?]|$)", re.IGNORECASE)
PORTS: Final = {"http": 80, "https": 443}

type Address = tuple[socket.AddressFamily, tuple[object, ...]]


class Origin(Struct, frozen=True, kw_only=True):
    """Where requests go. `named`: as the Host header says it."""

    tls: bool
    host: str
    port: int
    named: str


def origin(text: str) -> Origin | None:
    """Give the origin of `scheme://authority`; None for one that needs more than a look: userinfo, other scripts."""
    found = _PLAIN.fullmatch(text)
    if found is None or (found[3] and not 0 < int(found[3]) < 65_536):
        return None
    usual = PORTS[found[1]]
    port = int(found[3] or usual)
    named = found[2].lower() + ("" if port == usual else f":{port}")
    return Origin(tls=found[1] == "https", host=found[2].strip("[]"), port=port, named=named)


def plain(target: str) -> bool:
    """Say whether a path and query can stand in a request's first line just as they are."""
    return _TARGET.fullmatch(target) is not None and not (("/." in target or "/%2" in target) and _DOTS.search(target))


async def reached(host: str, port: int) -> socket.socket:
    """Connect to one of its addresses, each a little after the one before. Raises OSError."""
    addresses = in_turn([(family, address) for family, _, _, _, address in await resolved(host, port)])
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[BaseException] = []
    try:
        for address in addresses:
            running.add(asyncio.create_task(_connected(address)))
            last = address is addresses[-1]
            while running:
                wait = None if last else STAGGER
                done, running = await asyncio.wait(running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (error := task.exception()) is None:
                        running |= done - {task}
                        return task.result()
                    errors.append(error)
                if not last:
                    break
    finally:
        for task in running:
            task.cancel()
            task.add_done_callback(_drop)
    raise OSError("; ".join(map(str, errors)) or "it has no address")


async def resolved(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """Ask the resolver, which is the system's. Raises OSError."""
    loop = asyncio.get_running_loop()
    return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """Let families take turns, the first one's first (RFC 8305 §4)."""
    if not addresses:
        return []
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]


async def _connected(address: Address) -> socket.socket:
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _keep_alive(sock)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel ask whether the other side is there: a model may think for longer than a NAT remembers it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", ALIVE), ("TCP_KEEPINTVL", ALIVE), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # else the system's own
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _drop(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def authorities() -> ssl.SSLContext:
    """Give what verifies certificates. Reads files: some 20 ms.

    It believes SSL_CERT_FILE's and SSL_CERT_DIR's authorities, else the system's, else certifi's.
    """
    paths = ssl.get_default_verify_paths()  # of those that are there, with what the environment names
    file: str | None = paths.cafile
    folder: str | None = paths.capath
    if named := {name for name in (paths.openssl_cafile_env, paths.openssl_capath_env) if os.environ.get(name)}:
        file = file if paths.openssl_cafile_env in named else None
        folder = folder if paths.openssl_capath_env in named else None
    if not file and not (folder and any(Path(folder).iterdir())):
        import certifi  # noqa: PLC0415  (a bare container: read only there)

        file, folder = certifi.where(), None
    context = ssl.create_default_context(cafile=file, capath=folder)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # many a private authority lacks what RFC 5280 wants of its form
    context.set_alpn_protocols(["http/1.1"])
    return context
