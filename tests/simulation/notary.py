"""Signatures that cost nothing: a signer remembers what it signed, and a check asks whether it was.

Owns what stands in for ES256 while a domain is simulated; real signatures are proven by the tests of `identity`. Refuses
to know tokens, journals and statements, which are made and read by the product.
"""

from __future__ import annotations

import functools
import hashlib

import jwt
from jwt.algorithms import ECAlgorithm

SIGNED = set()


class Signer:
    """A host's signer: its public key is a real one, its signatures are the digests of what it signed."""

    algorithm = "ES256"

    def __init__(self, real):
        self.jwk = real.jwk

    async def sign(self, data):
        signature = hashlib.sha512(data).digest()
        SIGNED.add(signature)
        return signature


def installed(monkeypatch):
    """Let every check of a signature ask what was signed, and keys be read once."""
    read, keys = jwt.PyJWK, {}

    @functools.wraps(read)
    def key(public, algorithm=None):
        name = public["kid"]
        if name not in keys:
            keys[name] = read(public, algorithm)
        return keys[name]

    monkeypatch.setattr(jwt, "PyJWK", key)
    monkeypatch.setattr(
        ECAlgorithm, "verify", lambda _, data, __, signature: signature in SIGNED and _signs(data, signature)
    )


def _signs(data, signature):
    return hashlib.sha512(data).digest() == signature
