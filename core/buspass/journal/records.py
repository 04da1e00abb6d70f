"""A record's MAC and its commitments to payloads.

Owns the bytes that a MAC covers. Records are not chained when written: a chain would make parallel calls wait for each
other. Each carries an HMAC-SHA256 under a key of the trust domain that the database does not hold. Refuses to know
what a record says.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from buspass.jsontext import canonical
from buspass.ports.state import Item, Value

VERSION: Final = 1


class Journal:
    """Stamps and checks records of one trust domain. `key` is 32 bytes, derived from the domain key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def stamp(self, partition: str, key: str, record: Mapping[str, Value]) -> Item:
        """Give the record with its version and MAC. The MAC binds it to its place too."""
        whole: dict[str, Value] = {**record, "v": VERSION}
        whole["mac"] = self._mac(partition, key, whole)
        return whole

    def genuine(self, partition: str, key: str, record: Item) -> bool:
        """Say whether this very record was written here by a host of the domain."""
        mac = record.get("mac")
        body = {name: value for name, value in record.items() if name != "mac"}
        return isinstance(mac, str) and hmac.compare_digest(mac, self._mac(partition, key, body))

    def _mac(self, partition: str, key: str, record: Mapping[str, Value]) -> str:
        return hmac.digest(self._key, canonical([partition, key, record]), "sha256").hex()[:32]


def commitment(salt_key: bytes, name: str, payload: bytes) -> str:
    """Give a digest that says nothing of the payload once the task's key is erased: the salt comes from that key."""
    salt = hmac.digest(salt_key, b"salt:" + name.encode(), "sha256")
    return hmac.digest(salt, payload, "sha256").hex()
