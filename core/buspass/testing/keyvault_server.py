"""A small, faithful Azure Key Vault for tests: EC keys and `sign` over REST, and the platform's endpoint for tokens.

Owns one vault's keys with their versions, and tokens of one managed identity as App Service and Functions hand them out
(IDENTITY_ENDPOINT, IDENTITY_HEADER). Microsoft's identity client drives it unchanged over HTTP.

Sources (learn.microsoft.com): rest/api/keyvault/keys/get-key and …/sign; azure/key-vault/general/rest-error-codes and
…/authentication-requests-and-responses; azure/app-service/overview-managed-identity (the REST endpoint reference).

What it does not show: Entra ID's own tokens and RBAC (a token is good here if this server issued it for vaults), HSMs,
throttling of its own, firewalls, soft delete.
"""

from __future__ import annotations

import base64
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct, field

from buspass.testing.cosmos_http import Answer, Asked, listening

RESOURCE: Final = "https://vault.azure.net"


class Version(Struct, kw_only=True):
    """One version of a key. `operations`: what it may be used for."""

    key: ec.EllipticCurvePrivateKey
    operations: tuple[str, ...] = ("sign", "verify")
    enabled: bool = True


class Trouble(Struct, kw_only=True):
    """What the next request to the vault meets; `status` 0: the connection is closed without an answer."""

    status: int = 0
    code: str = "InternalError"


class KeyVaultServer(Struct):
    """A vault and an identity that may use it. `meet` plans troubles; `asked` tells what the vault was asked."""

    url: str = ""
    client_id: str = "11111111-2222-3333-4444-555555555555"
    header: str = field(default_factory=lambda: secrets.token_hex(16))
    keys: dict[str, dict[str, Version]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    lifetime: int = 86_400
    """Seconds that a token is good."""
    _troubles: deque[Trouble] = field(default_factory=deque)

    def meet(self, *troubles: Trouble) -> None:
        self._troubles.extend(troubles)

    def add(self, name: str, *, curve: ec.EllipticCurve | None = None, **properties: Any) -> str:
        """Make a key, or a new version of one; give the version's name."""
        version = secrets.token_hex(16)
        made = Version(key=ec.generate_private_key(curve or ec.SECP256R1()), **properties)
        self.keys.setdefault(name, {})[version] = made
        return version

    @property
    def environ(self) -> dict[str, str]:
        """What the platform gives a function app with a user-assigned identity."""
        return {
            "IDENTITY_ENDPOINT": f"{self.url}/msi/token",
            "IDENTITY_HEADER": self.header,
            "AZURE_CLIENT_ID": self.client_id,
            "AZURE_TOKEN_CREDENTIALS": "ManagedIdentityCredential",
        }

    async def __call__(self, asked: Asked) -> Answer | None:
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        if asked.path == "/msi/token":
            return self._token(asked, query)
        self.asked.append((asked.method, asked.path))
        if self._troubles:
            trouble = self._troubles.popleft()
            return _error(trouble.status, trouble.code) if trouble.status else None
        if asked.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            challenge = f'Bearer authorization="https://login.microsoftonline.com/TENANT", resource="{RESOURCE}"'
            return _error(401, "Unauthorized", {"www-authenticate": challenge})
        if "api-version" not in query:
            return _error(400, "BadParameter")
        return self._key(asked)

    def _token(self, asked: Asked, query: dict[str, str]) -> Answer:
        if asked.headers.get("x-identity-header") != self.header or query.get("client_id") != self.client_id:
            return _json(400, {"statusCode": 400, "message": "No User Assigned or Delegated Managed Identity found"})
        token = secrets.token_urlsafe(24)
        if query.get("resource") == RESOURCE:
            self.tokens.add(token)
        expires = str(int(time.time()) + self.lifetime)
        named = {
            "access_token": token,
            "expires_on": expires,
            "resource": query.get("resource"),
            "token_type": "Bearer",
        }
        return _json(200, named | {"client_id": self.client_id})

    def _key(self, asked: Asked) -> Answer:
        kind, name, *rest = [*asked.path.strip("/").split("/"), "", ""][:4]
        versions = self.keys.get(name, {}) if kind == "keys" else {}
        named = rest[0] if rest[0] and rest[0] != "sign" else next(reversed(versions), "")
        found = versions.get(named)
        if found is None:
            return _error(404, "KeyNotFound")
        kid = f"https://vault.invalid/keys/{name}/{named}"
        if asked.method == "GET":
            return _json(200, _shown(found, kid))
        if not found.enabled or "sign" not in found.operations:
            return _error(403, "Forbidden")
        return _signed(found, kid, json.loads(asked.body))


def _signed(found: Version, kid: str, wanted: Any) -> Answer:
    digest = _decoded(wanted["value"])
    if wanted["alg"] != "ES256" or not isinstance(found.key.curve, ec.SECP256R1) or len(digest) != 32:
        return _error(400, "BadParameter")
    r, s = decode_dss_signature(found.key.sign(digest, ec.ECDSA(Prehashed(SHA256()))))
    return _json(200, {"kid": kid, "value": _encoded(r.to_bytes(32) + s.to_bytes(32))})


def _shown(found: Version, kid: str) -> dict[str, Any]:
    numbers, size = found.key.public_key().public_numbers(), (found.key.key_size + 7) // 8
    curve = {"secp256r1": "P-256", "secp384r1": "P-384"}[found.key.curve.name]
    key = {"kid": kid, "kty": "EC", "key_ops": [*found.operations], "crv": curve}
    key |= {"x": _encoded(numbers.x.to_bytes(size)), "y": _encoded(numbers.y.to_bytes(size))}
    return {
        "key": key,
        "attributes": {"enabled": found.enabled, "created": 1, "updated": 1, "recoveryLevel": "Recoverable"},
    }


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _json(status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> Answer:
    said = {"content-type": "application/json; charset=utf-8", **(headers or {})}
    return Answer(status, said, json.dumps(document).encode())


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> Answer:
    return _json(status, {"error": {"code": code, "message": f"{code}, says the vault"}}, headers)


@contextlib.asynccontextmanager
async def serving_key_vault(server: KeyVaultServer) -> AsyncIterator[KeyVaultServer]:
    """Serve the vault on a free loopback port while the block runs; `url` says where."""
    async with listening(server) as server.url:
        yield server
