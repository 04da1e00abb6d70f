"""Keys in files: the host's signing key, the domain key and the operator's key of a data directory.

Owns where they lie (`DATA/keys/signer.pem`, `DATA/keys/domain.key`, `DATA/operator.key`), how they are written
and that they are made only on a first start that may. Refuses to know what is signed.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from buspass.errors import ConfigError
from buspass.identity.domain import DomainKey
from buspass.identity.jwk import jose_signature, public_jwk
from buspass.ports.signer import Signer
from buspass_onprem.keyfiles import read_or_make

_OPERATOR: Final = re.compile(r"bpo_[A-Za-z0-9_-]{43}")


class FileSigner:
    """An ES256 key in memory. `kid` is its thumbprint (RFC 7638); a signature is R‖S (RFC 7518 §3.4)."""

    algorithm: str = "ES256"

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.jwk: Mapping[str, str] = public_jwk(key.public_key())

    async def sign(self, data: bytes) -> bytes:
        return jose_signature(self._key.sign(data, ec.ECDSA(SHA256())))

    async def close(self) -> None:
        """Nothing is held open."""


async def open(url: str, *, data: Path, create: bool) -> Signer:  # noqa: A001  (the adapters' common entry)
    """Open the signer at `file:` (DATA/keys/signer.pem), `file:////ABSOLUTE` or `file:///RELATIVE-TO-DATA`.

    A PEM of an unencrypted P-256 private key. With `create` a missing one is made, mode 0600, once for all
    processes that start together. Raises ConfigError: another scheme, a missing or unusable key.
    """
    path = _path(url, data)
    what = f"signer {url}"
    content = await asyncio.to_thread(read_or_make, path, what, _new_pem if create else None)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError([f"{what}: {path} is no unencrypted PEM of a private key"]) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        make = "`openssl ecparam -name prime256v1 -genkey -noout`"
        raise ConfigError([f"{what}: {path} holds a key that is not of P-256; ES256 needs one: {make}"])
    return FileSigner(key)


async def domain_key(data: Path, *, create: bool) -> DomainKey:
    """Read DATA/keys/domain.key (32 bytes as text), made as `open` does. Raises ConfigError."""
    path = data / "keys" / "domain.key"
    return DomainKey.from_text(await _text(path, "domain_key", _new_domain_key if create else None))


async def operator_key(data: Path, *, create: bool) -> str:
    """Read DATA/operator.key (`bpo_…`), the bearer of whoever may read that file. Raises ConfigError."""
    path = data / "operator.key"
    key = (await _text(path, "operator key", _new_operator_key if create else None)).strip()
    if not _OPERATOR.fullmatch(key):
        raise ConfigError([f"operator key {path}: this is no bpo_ key; delete the file to have a new one made"])
    return key


async def _text(path: Path, what: str, make: Callable[[], bytes] | None) -> str:
    content = await asyncio.to_thread(read_or_make, path, what, make)
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError([f"{what} {path}: this is no text"]) from None


def _path(url: str, data: Path) -> Path:
    if url in ("file:", "file://", ""):
        return data / "keys" / "signer.pem"
    if not url.startswith("file:///") or "?" in url or "#" in url:
        raise ConfigError([f"signer {url}: allowed are file:////PATH (absolute) and file: (BUSPASS_DATA/keys)"])
    return data / url.removeprefix("file:///")


def _new_pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _new_domain_key() -> bytes:
    return secrets.token_urlsafe(32).encode() + b"\n"


def _new_operator_key() -> bytes:
    return f"bpo_{secrets.token_urlsafe(32)}\n".encode()
