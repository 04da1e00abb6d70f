"""A folder as a blobs store: one file a blob, replaced atomically, for any number of processes.

Owns the layout of the folder and its lock. Refuses to know what the bytes are.

A blob `a/b` is the file `a/b~`: `~` can't occur in a name, so that `a` and `a/b` may both be there. Bytes
are written and synced in `.incoming`, then renamed. Writers hold `.lock` shared; alone are those that
compare before they write (`if_match`) and those that remove, because they tidy up empty folders.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from buspass.ports.blobs import BlobConflict, Blobs, BlobsUnavailable, check_name, check_page, check_put

_FORGOTTEN: Final = 3600.0
"""Seconds after which an incoming file was left by a writer that died."""


async def open(url: str) -> Blobs:  # noqa: A001  (the name of every adapter's way in)
    """Open `file:///DIR` (relative to the working directory) or `file:////DIR` (absolute); creates it if missing.

    Raises ValueError for a bad URL, BlobsUnavailable where the folder can't be had.
    """
    parts = urlsplit(url)
    folder = unquote(parts.path[1:])
    if parts.scheme != "file" or parts.netloc or parts.query or parts.fragment or not folder:
        raise ValueError(f"blobs {url!r}: allowed is file:///DIR (relative) or file:////DIR (absolute)")
    return FileBlobs(await asyncio.to_thread(_prepare, Path(folder)))


class FileBlobs:
    """The port over a prepared folder. Works in threads of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._process = os.getpid()
        self._closed = False
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="blobs")

    async def put(self, name: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        check_put(name, data, if_match, if_none_match)
        return await self._work(lambda: self._put(name, data, if_match, if_none_match))

    async def get(self, name: str) -> tuple[bytes, str] | None:
        check_name(name)
        return await self._work(lambda: self._get(name))

    async def delete(self, name: str) -> None:
        check_name(name)
        await self._work(lambda: self._delete(name))

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        check_page(prefix, after, limit)
        return await self._work(lambda: self._list(prefix, after, limit))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if os.getpid() == self._process:
            await asyncio.to_thread(self._pool.shutdown)

    async def _work[T](self, work: Callable[[], T]) -> T:
        if self._closed:
            raise BlobsUnavailable("the store is closed")
        if os.getpid() != self._process:
            raise BlobsUnavailable(f"{self._root} was opened before a fork: open it again in the new process")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except OSError as error:
            raise BlobsUnavailable(f"{self._root}: {error.strerror}") from error

    def _file(self, name: str) -> Path:
        return self._root / f"{name}~"

    def _put(self, name: str, data: bytes, if_match: str | None, if_none_match: bool) -> str:
        file, incoming = self._file(name), self._root / ".incoming" / uuid.uuid4().hex
        try:
            _write(incoming, data)
            with self._locked(alone=if_match is not None):
                if if_match is not None:
                    there = self._get(name)
                    if there is None or there[1] != if_match:
                        raise BlobConflict(f"blob {name!r} is not the one with tag {if_match!r}")
                self._make(file.parent)
                if if_none_match:
                    try:
                        os.link(incoming, file)
                    except FileExistsError as error:
                        raise BlobConflict(f"blob {name!r} is there already") from error
                else:
                    incoming.replace(file)
                _sync(file.parent)
        finally:
            incoming.unlink(missing_ok=True)
        return _tag(data)

    def _get(self, name: str) -> tuple[bytes, str] | None:
        try:
            data = self._file(name).read_bytes()
        except FileNotFoundError:
            (self._root / ".lock").stat()  # the blob may be missing, the store may not
            return None
        return data, _tag(data)

    def _delete(self, name: str) -> None:
        file = self._file(name)
        with self._locked(alone=True):
            try:
                file.unlink()
            except FileNotFoundError:
                return
            folder = file.parent
            _sync(folder)
            with contextlib.suppress(OSError):  # until one is not empty
                while folder != self._root:
                    folder.rmdir()
                    folder = folder.parent

    def _list(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        (self._root / ".lock").stat()
        return [*islice(_names(self._root, "", prefix, after), limit)]

    def _make(self, folder: Path) -> None:
        """Make the folder durably: each new one is an entry of the one above."""
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir(mode=0o700, exist_ok=True)
            _sync(new.parent)

    @contextlib.contextmanager
    def _locked(self, *, alone: bool) -> Iterator[None]:
        lock = os.open(self._root / ".lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(lock)


def _prepare(folder: Path) -> Path:
    root = folder.absolute()
    try:
        (root / ".incoming").mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        for left in (root / ".incoming").iterdir():
            with contextlib.suppress(FileNotFoundError):  # its writer lives after all
                if left.stat().st_mtime < time.time() - _FORGOTTEN:
                    left.unlink()
    except OSError as error:
        raise BlobsUnavailable(f"{root} can't be opened: {error.strerror}") from error
    return root


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _names(folder: Path, above: str, prefix: str, after: str) -> Iterator[str]:
    """Walk in the order of names; a folder sorts as its name and `/`. Folders that can't hold a hit are not read."""
    ends: list[str] = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:  # it may be tidied up meanwhile
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                ends.append(f"{entry.name}/")
            elif entry.name.endswith("~"):
                ends.append(entry.name[:-1])
    for end in sorted(ends):
        name = above + end
        if not end.endswith("/"):
            if name.startswith(prefix) and name > after:
                yield name
        elif (name.startswith(prefix) or prefix.startswith(name)) and (name > after or after.startswith(name)):
            yield from _names(folder / end[:-1], name, prefix, after)
