"""Payloads, outcomes and checkpoints: blobs, encrypted with a key per task; to erase the key is to erase them all.

Owns the encryption (AES-256-GCM, the blob's name as associated data) and the wrapping of task keys under the domain
key. Refuses to know what it keeps. Fails closed: what can't be decrypted is an error, not an empty answer.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from buspass.errors import Problem
from buspass.journal.records import commitment, recurring
from buspass.ports.blobs import BlobConflict, Blobs, BlobsUnavailable

_NONCE = 12
_ROUNDS = 16
_KEYS = 1024
"""Opened keys that are kept: a call needs its task's several times."""


class Erased(Exception):  # noqa: N818 - it says what became of it
    """The task's key is gone, and with it everything it encrypted."""


class Vault:
    """One trust domain's encrypted blobs. `wrap` is 32 bytes, derived from the domain key."""

    def __init__(self, blobs: Blobs, wrap: bytes) -> None:
        self._blobs = blobs
        self._wrap = AESGCM(wrap)
        self._opened_keys: dict[tuple[str, str], bytes] = {}

    def new_key(self, task: str) -> tuple[bytes, str]:
        """Make a task's key: in the clear for use, and wrapped for the store."""
        key, nonce = AESGCM.generate_key(256), os.urandom(_NONCE)
        return key, base64.b64encode(nonce + self._wrap.encrypt(nonce, key, task.encode())).decode()

    def unwrap(self, task: str, wrapped: str | None) -> bytes:
        """Open a task's key. Raises Erased, or Problem internal where the domain key is another."""
        if not wrapped:
            raise Erased(task)
        if (known := self._opened_keys.get((task, wrapped))) is not None:
            return known
        data = base64.b64decode(wrapped)
        try:
            key = self._wrap.decrypt(data[:_NONCE], data[_NONCE:], task.encode())
        except InvalidTag as error:
            raise Problem("internal", "this host's domain key does not open the task's key") from error
        if len(self._opened_keys) >= _KEYS:
            self._opened_keys.clear()
        self._opened_keys[task, wrapped] = key
        return key

    async def put(self, key: bytes, name: str, data: bytes) -> None:
        """Encrypt and write. Raises Problem state_unavailable."""
        nonce = os.urandom(_NONCE)
        try:
            await self._blobs.put(name, nonce + AESGCM(key).encrypt(nonce, data, name.encode()))
        except BlobsUnavailable as error:
            raise Problem("state_unavailable", "the blob store could not be reached", retry_after=1) from error

    async def merge(self, key: bytes, name: str, merged: Callable[[bytes | None], bytes]) -> bytes:
        """Write what `merged` makes of what is there, so that nothing another writes meanwhile is lost; give it.

        Raises Problem state_unavailable, internal.
        """
        for _ in range(_ROUNDS):
            try:
                found = await self._blobs.get(name)
                data = merged(self._opened(key, name, found[0]) if found else None)
                nonce = os.urandom(_NONCE)
                sealed = nonce + AESGCM(key).encrypt(nonce, data, name.encode())
                await self._blobs.put(name, sealed, if_match=found[1] if found else None, if_none_match=found is None)
            except BlobConflict:
                continue
            except BlobsUnavailable as error:
                raise Problem("state_unavailable", "the blob store could not be reached", retry_after=1) from error
            return data
        raise Problem("state_unavailable", "others change the same blob faster than it can be read", retry_after=1)

    async def get(self, key: bytes, name: str) -> bytes | None:
        """Read and decrypt; None where there is none. Raises Problem state_unavailable, internal."""
        try:
            found = await self._blobs.get(name)
        except BlobsUnavailable as error:
            raise Problem("state_unavailable", "the blob store could not be reached", retry_after=1) from error
        if found is None:
            return None
        return self._opened(key, name, found[0])

    @staticmethod
    def _opened(key: bytes, name: str, data: bytes) -> bytes:
        try:
            return AESGCM(key).decrypt(data[:_NONCE], data[_NONCE:], name.encode())
        except InvalidTag as error:
            raise Problem("internal", f"the blob {name} was altered or is another task's") from error

    async def delete(self, name: str) -> None:
        """Drop one blob; it need not exist."""
        try:
            await self._blobs.delete(name)
        except BlobsUnavailable as error:
            raise Problem("state_unavailable", "the blob store could not be reached", retry_after=1) from error

    def commit(self, key: bytes, name: str, payload: bytes) -> str:
        """Give the salted digest by which a record commits to a payload."""
        return commitment(key, name, payload)

    def mark(self, key: bytes, fingerprint: str) -> str:
        """Give what a record may hold of a request's digest: the same for the same request of this task."""
        return recurring(key, "fingerprint", fingerprint.encode())[:32]
