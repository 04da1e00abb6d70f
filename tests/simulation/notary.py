"""Signatures that cost nothing: a signer remembers what it signed, and a check asks whether it was.

Owns what stands in for ES256 while domains are simulated; real signatures are proven by the tests of `identity`. Refuses
to know tokens, journals and statements, which are made and read by the product.
"""

from __future__ import annotations

import hashlib

from buspass.identity.proving import PublicKey

SIGNED = set()


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
    """Let every check of a signature ask what was signed: it is good under the key of its signer's name alone."""
    monkeypatch.setattr(
        PublicKey,
        "proves",
        lambda key, data, signature: signature in SIGNED and _signature(key.kid, data) == signature,
    )


def _signature(name, data):
    return hashlib.sha512(name.encode() + data).digest()
