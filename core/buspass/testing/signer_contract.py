"""What every signer keeps: signatures in JOSE's form that its published key verifies, and nothing private shown.

Subclass it and give the fixture `signer`. Knows no key store.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import jwt
from jwt.api_jws import PyJWS

from buspass.ports.signer import Signer


class SignerContract:
    """The suite. `many`: how many signatures are looked at for their length."""

    many = 2000

    async def test_a_signature_is_the_jose_form_that_the_published_key_verifies(self, signer: Signer) -> None:
        key = jwt.PyJWK(dict(signer.jwk), algorithm=signer.algorithm)
        for turn in range(20):
            signature = await signer.sign(b"data %d" % turn)
            assert key.Algorithm.verify(b"data %d" % turn, key.key, signature)
            assert not key.Algorithm.verify(b"other data", key.key, signature)

    async def test_a_signature_has_always_the_same_length(self, signer: Signer) -> None:
        """R or S is shorter than 32 bytes once in 128 signatures, and padded then."""
        assert {len(await signer.sign(b"data")) for _ in range(self.many)} == {64}

    async def test_pyjwt_reads_what_it_signs(self, signer: Signer) -> None:
        signing = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (b'{"alg":"ES256"}', b"{}"))
        signature = base64.urlsafe_b64encode(await signer.sign(signing.encode())).rstrip(b"=").decode()
        key = jwt.PyJWK(dict(signer.jwk))
        assert PyJWS().decode(f"{signing}.{signature}", key, algorithms=["ES256"]) == b"{}"

    async def test_the_kid_is_the_thumbprint_and_nothing_private_is_shown(self, signer: Signer) -> None:
        required = {name: signer.jwk[name] for name in ("crv", "kty", "x", "y")}
        digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
        assert signer.jwk["kid"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        assert set(signer.jwk) == {"crv", "kty", "x", "y", "kid", "alg", "use"}

    async def test_calls_at_once_get_each_its_own_signature(self, signer: Signer) -> None:
        key = jwt.PyJWK(dict(signer.jwk), algorithm=signer.algorithm)
        texts = [b"text %d" % turn for turn in range(20)]
        signatures = await asyncio.gather(*(signer.sign(text) for text in texts))
        assert all(
            key.Algorithm.verify(text, key.key, signature) for text, signature in zip(texts, signatures, strict=True)
        )

    async def test_nothing_and_much_can_be_signed(self, signer: Signer) -> None:
        key = jwt.PyJWK(dict(signer.jwk), algorithm=signer.algorithm)
        for data in (b"", bytes(100_000)):
            assert key.Algorithm.verify(data, key.key, await signer.sign(data))
