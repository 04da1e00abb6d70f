"""The host's signing key: it signs, and shows its public half. Knows nothing of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class SignerUnavailable(Exception):  # noqa: N818
    """The key cannot be used now; nothing was signed. Controls that need a signature fail closed."""


class Signer(Protocol):
    """One asymmetric key. `algorithm` is a JOSE name (ES256), `jwk` the public key with its `kid`.

    `sign` answers the raw JOSE signature (for ES256: R‖S, 64 bytes) over SHA-256 of the data.
    Raises `SignerUnavailable`.
    """

    algorithm: str
    jwk: Mapping[str, str]

    async def sign(self, data: bytes) -> bytes: ...

    async def close(self) -> None: ...
