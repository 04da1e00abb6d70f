"""A record's MAC and its commitments to payloads.

Owns the bytes that a MAC covers. Records are not chained when written: a chain would make parallel calls wait for each
other. Each carries an HMAC-SHA256 under a key of the trust domain that the database does not hold. Refuses to know
what a record says.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from buspass.jsontext import canonical, written
from buspass.ports.shapes import Shapes
from buspass.ports.state import Item, Put, Value

VERSION: Final = 1
_NO_MAC: Final = "-" * 32
"""Stands where a record's MAC will. A member of this text is no part of a string: there, quotes are escaped."""
_MEMBER: Final = b'"mac":"%b",' % _NO_MAC.encode()
KEYS: Final = 1024
"""Keys of tasks that are kept ready for use."""
_BLOCK: Final = 64
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


class Mac:
    """HMAC-SHA256 (RFC 2104) under one key, both halves of which are hashed once.

    OpenSSL's call in one shot looks its digest up and hashes the key anew each time, and takes twice as long.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = _block(key)
        self._inner = hashlib.sha256(block.translate(_INNER))
        self._outer = hashlib.sha256(block.translate(_OUTER))

    def digest(self, data: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.digest()


class Journal:
    """Stamps and checks records of one trust domain. `key` is 32 bytes, derived from the domain key."""

    def __init__(self, key: bytes) -> None:
        self._key = Mac(key)
        self._shapes = Shapes()

    def stamp(self, partition: str, key: str, record: Mapping[str, Value]) -> Item:
        """Give the record with its version and MAC. The MAC binds it to its place too."""
        whole: dict[str, Value] = {**record, "v": VERSION}
        whole["mac"] = self._mac(partition, key, whole)
        return whole

    def put(self, partition: str, key: str, record: Mapping[str, Value]) -> Put:
        """Give the put of the stamped record. Of records alike, all that is needed of its text is written once."""
        whole: dict[str, Value] = {**record, "v": VERSION, "mac": _NO_MAC}
        before, found, after = (self._shapes.text(whole, record.get("kind")) or b"").partition(_MEMBER)
        if not found or _MEMBER in after:  # nothing is known of it, or there is another that is called so
            return Put(key, self.stamp(partition, key, record))
        place = written([partition, key])[:-1]
        mac = self._key.digest(b"%b,%b%b]" % (place, before, after)).hex()[:32]
        whole["mac"] = mac
        return Put(key, whole, text=b'%b"mac":"%b",%b' % (before, mac.encode(), after))

    def genuine(self, partition: str, key: str, record: Item) -> bool:
        """Say whether this very record was written here by a host of the domain."""
        mac = record.get("mac")
        body = {name: value for name, value in record.items() if name != "mac"}
        return isinstance(mac, str) and hmac.compare_digest(mac, self._mac(partition, key, body))

    def _mac(self, partition: str, key: str, record: Mapping[str, Value]) -> str:
        return self._key.digest(canonical([partition, key, record])).hex()[:32]


def commitment(salt_key: bytes, name: str, payload: bytes) -> str:
    """Give a digest that says nothing of the payload once the task's key is erased: the salt comes from that key."""
    return once(_ready(salt_key).digest(b"salt:" + name.encode()), payload).hex()


def recurring(salt_key: bytes, name: str, payload: bytes) -> str:
    """Give the same for a name that many payloads have: its salt is made once."""
    return _salted(salt_key, name).digest(payload).hex()


def once(key: bytes, data: bytes) -> bytes:
    """Give what `Mac(key)` would, of a key that is used for nothing else: its halves are hashed with what they hold."""
    block = _block(key)
    inner = hashlib.sha256(block.translate(_INNER) + data).digest()
    return hashlib.sha256(block.translate(_OUTER) + inner).digest()


def _block(key: bytes) -> bytes:
    return (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")


@lru_cache(maxsize=KEYS)
def _ready(key: bytes) -> Mac:
    return Mac(key)


@lru_cache(maxsize=KEYS)
def _salted(salt_key: bytes, name: str) -> Mac:
    return Mac(_ready(salt_key).digest(b"salt:" + name.encode()))
