"""The public half of a P-256 key as a JWK, whoever keeps the private one. Knows no key store."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

SIZE: Final = 32
"""Bytes of a P-256 coordinate, and of each half of a signature."""


def public_jwk(public: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Give the JWK of a P-256 key. `kid` is its thumbprint (RFC 7638)."""
    numbers = public.public_numbers()
    required = {
        "crv": "P-256",
        "kty": "EC",
        "x": _base64url(numbers.x.to_bytes(SIZE)),
        "y": _base64url(numbers.y.to_bytes(SIZE)),
    }
    # RFC 7638 §3: the required members alone, in lexicographic order, without white space.
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True).encode()
    kid = _base64url(hashlib.sha256(canonical).digest())
    return {**required, "kid": kid, "alg": "ES256", "use": "sig"}


def jose_signature(der: bytes) -> bytes:
    """Give R‖S (RFC 7518 §3.4) of a signature in DER. Raises ValueError."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(SIZE) + s.to_bytes(SIZE)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
