"""Signatures that cost nothing: a signer remembers what it signed, and a check asks whether it was.

Owns what stands in for ES256 while domains are simulated; real signatures are proven by the tests of `identity`. Refuses
to know tokens, journals and statements, which are made and read by the product.
"""

from __future__ import annotations

import functools
import hashlib

import jwt
from jwt.algorithms import ECAlgorithm

SIGNED = set()
NAMES = {}
"""Public keys and their names, by the keys' identity: a signature is good under one of them alone."""


class Signer:
    """A host's signer: its public key is a real one, its signatures are the digests of what it signed, and its name."""

    algorithm = "ES256"

    def __init__(self, real):
        self.jwk = real.jwk

    async def sign(self, data):
        signature = _signature(self.jwk["kid"], data)
        SIGNED.add(signature)
        return signature


def forged(data):
    """Give what looks like a signature and is none."""
    return _signature("nobody", data)


def installed(monkeypatch):
    """Let every check of a signature ask what was signed, and keys be read once."""
    read, keys = jwt.PyJWK, {}

    @functools.wraps(read)
    def key(public, algorithm=None):
        name = public["kid"]
        if name not in keys:
            keys[name] = read(public, algorithm)
            NAMES[id(keys[name].key)] = name
        return keys[name]

    monkeypatch.setattr(jwt, "PyJWK", key)
    monkeypatch.setattr(
        ECAlgorithm, "verify", lambda _, data, key, signature: signature in SIGNED and _signs(data, key, signature)
    )


def _signs(data, key, signature):
    return _signature(NAMES.get(id(key), ""), data) == signature


def _signature(name, data):
    return hashlib.sha512(name.encode() + data).digest()
