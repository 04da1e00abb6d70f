"""Public keys that prove signatures, read from JWKs (RFC 7517): ES256 and RS256, and nothing else.

Owns which keys are usable, and that each proves by one algorithm only, whatever a token's header says. `cryptography`
does the mathematics. pyjwt would as well, but loads X.509, SSH and an HTTP client: an eighth of a cold start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct

from buspass.identity.jwk import SIZE
from buspass.identity.jws import decoded

SHORTEST: Final = 2048
"""Bits of an RSA modulus (RFC 7518 §3.3)."""
_REQUIRED: Final = {"ES256": ("kty", "crv", "x", "y"), "RS256": ("kty", "n", "e")}


class PublicKey(Struct, frozen=True, kw_only=True):
    """One key. `members` are what RFC 7638 requires of its JWK."""

    kid: str
    algorithm: str
    members: Mapping[str, str]
    inner: Any

    def proves(self, data: bytes, signature: bytes) -> bool:
        """Say whether this key signed `data`; a signature of ES256 is R‖S (RFC 7518 §3.4)."""
        try:
            if self.algorithm == "ES256":
                if len(signature) != 2 * SIZE:
                    return False
                r, s = int.from_bytes(signature[:SIZE]), int.from_bytes(signature[SIZE:])
                self.inner.verify(encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
            else:
                from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15  # noqa: PLC0415 - see _rsa

                self.inner.verify(signature, data, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True


def public_key(jwk: Mapping[str, Any], algorithm: str) -> PublicKey:
    """Read a JWK as a key for this algorithm. Raises ValueError for one that can prove nothing by it."""
    members = {name: jwk.get(name) for name in _REQUIRED.get(algorithm, ())}
    texts = {name: value for name, value in members.items() if isinstance(value, str)}
    if not texts or len(texts) < len(members) or not isinstance(kid := jwk.get("kid"), str):
        raise ValueError(f"this is no public key for {algorithm}")
    inner = _p256(texts) if algorithm == "ES256" else _rsa(texts)
    return PublicKey(kid=kid, algorithm=algorithm, members=texts, inner=inner)


def _p256(members: Mapping[str, str]) -> ec.EllipticCurvePublicKey:
    x, y = _bytes(members["x"]), _bytes(members["y"])
    if (members["kty"], members["crv"]) != ("EC", "P-256") or (len(x), len(y)) != (SIZE, SIZE):
        raise ValueError("ES256 needs a key of P-256")
    return ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()


def _rsa(members: Mapping[str, str]) -> Any:
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415 - foreign issuers' only, not a cold start's

    n, e = int.from_bytes(_bytes(members["n"])), int.from_bytes(_bytes(members["e"]))
    if members["kty"] != "RSA" or n.bit_length() < SHORTEST:
        raise ValueError(f"RS256 needs an RSA key of {SHORTEST} bits at least")
    return rsa.RSAPublicNumbers(e, n).public_key()


def _bytes(text: str) -> bytes:
    """Some issuers pad what RFC 7515 leaves unpadded."""
    return decoded(text.rstrip("="))
