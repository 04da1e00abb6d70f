"""A P-256 key in Azure Key Vault as the host's signer: the private half never leaves the vault.

Owns the URL, the version of the key that is used, and the way to `sign`. Refuses to know what is signed.

The version is chosen at opening and kept until the process ends, so that what is signed always fits the public key
that this host has published; a key that was rotated is used after the next start. A signature is asked for a second
time after 429, 5xx and lost connections: to sign twice changes nothing.
Source: learn.microsoft.com/rest/api/keyvault/keys (get-key, sign), …/azure/key-vault/general/rest-error-codes

**Proven** on `buspass.testing.keyvault_server`, written from those pages, with Microsoft's own client for tokens of
a managed identity. **Unproven** until it ran against a vault: what Entra ID and RBAC refuse, how soon the service
throttles (it documents some thousand operations in ten seconds for a vault), and keys in an HSM.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core import AsyncPipelineClient
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError
from azure.core.pipeline.policies import AsyncBearerTokenCredentialPolicy
from azure.core.rest import AsyncHttpResponse, HttpRequest
from cryptography.hazmat.primitives.asymmetric import ec

from buspass.errors import ConfigError
from buspass.identity.jwk import SIZE, public_jwk
from buspass.ports.signer import Signer, SignerUnavailable
from buspass_azure import access

CONNECT_SECONDS: Final = 3
ANSWER_SECONDS: Final = 5
PAUSE: Final = 0.25
"""Seconds before the second try."""

_PARAMS: Final = {"api-version": "7.4"}
_VAULT: Final = re.compile(r"(?!.*--)[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9]")
_KEY: Final = re.compile(r"/([A-Za-z0-9-]{1,127})(?:/([0-9a-f]{32}))?")


async def open(url: str, *, data: Path, create: bool) -> Signer:  # noqa: A001, ARG001  (the adapters' common entry)
    """Open `keyvault://VAULT/KEY[/VERSION][?endpoint=URL]`, whose key must be there: an EC key of P-256 that may sign.

    It is never made here, whatever `create` says. Raises ConfigError where the URL, the key or the right to use it is
    not as it must be, or the vault can't be reached.
    """
    endpoint, name, version = _parse(url)
    signer = KeyVaultSigner(endpoint, access.identity())
    try:
        await signer.choose(f"keys/{name}/{version}".rstrip("/"))
    except (AzureError, ValueError) as error:
        await signer.close()
        raise ConfigError([f"signer {url}: {_why(error)}"]) from error
    except BaseException:
        await signer.close()
        raise
    return signer


def _parse(url: str) -> tuple[str, str, str]:
    """Give the vault's address, the key's name, and its version or ''. Raises ConfigError."""
    parts = urlsplit(url)
    found = _KEY.fullmatch(parts.path)
    if parts.scheme != "keyvault" or parts.fragment or found is None or not _VAULT.fullmatch(parts.netloc):
        raise ConfigError([f"signer {url}: allowed is keyvault://VAULT/KEY[/VERSION][?endpoint=URL]"])
    try:
        if "key" in access.options_of(url):
            raise ConfigError([f"signer {url}: a vault knows identities alone, no key= of an account"])
        endpoint = access.endpoint_of(url, f"https://{parts.netloc}.vault.azure.net")
    except ValueError as error:
        raise ConfigError([f"signer: {error}"]) from error
    return endpoint.rstrip("/"), found[1], found[2] or ""


def _scope(endpoint: str) -> str:
    """What a token is asked for: the vaults of this cloud, of which each cloud has one domain."""
    parts = urlsplit(endpoint)
    domain = (parts.hostname or "").partition(".")[2] if parts.scheme == "https" else ""
    return f"https://{domain if domain.startswith('vault.') else 'vault.azure.net'}/.default"


class KeyVaultSigner:
    """The port over one version of one key. Bound to the event loop it was opened on; usable after `choose`."""

    algorithm: str = "ES256"

    def __init__(self, endpoint: str, identity: AsyncTokenCredential) -> None:
        self.jwk: Mapping[str, str] = {}
        self._identity, self._endpoint, self._path = identity, endpoint, ""
        self._client: Any = AsyncPipelineClient(
            endpoint,
            policies=[AsyncBearerTokenCredentialPolicy(identity, _scope(endpoint))],
            transport=access.transport(),
        )

    async def choose(self, path: str) -> None:
        """Take the key at `path` as it is now. Raises ValueError for one that is no use, and AzureError."""
        response = await self._sent(HttpRequest("GET", f"{self._endpoint}/{path}", params=_PARAMS))
        if response.status_code != 200:
            raise ValueError(_told(response))
        found = response.json()
        key = found.get("key", {})
        if key.get("kty") not in ("EC", "EC-HSM") or key.get("crv") != "P-256":
            raise ValueError(f"it is a {key.get('kty')} key of {key.get('crv', 'no curve')}; ES256 needs EC, P-256")
        if "sign" not in key.get("key_ops", ()) or not found.get("attributes", {}).get("enabled", True):
            raise ValueError("it may not sign: `sign` must be among its operations, and it must be enabled")
        x, y = int.from_bytes(_decoded(key["x"])), int.from_bytes(_decoded(key["y"]))
        self.jwk = public_jwk(ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
        self._path = urlsplit(key["kid"]).path.lstrip("/")

    async def sign(self, data: bytes) -> bytes:
        body = {"alg": self.algorithm, "value": _encoded(hashlib.sha256(data).digest())}
        try:
            for last in (False, True):
                request = HttpRequest("POST", f"{self._endpoint}/{self._path}/sign", params=_PARAMS, json=body)
                try:
                    response = await self._sent(request)
                except AzureError as error:
                    if last:
                        raise SignerUnavailable(_why(error)) from error
                else:
                    if response.status_code == 200:
                        return self._checked(response.json())
                    if last or (response.status_code != 429 and response.status_code < 500):
                        raise SignerUnavailable(_told(response))
                await asyncio.sleep(PAUSE)
        except (KeyError, TypeError, ValueError) as error:
            raise SignerUnavailable(f"Key Vault: an answer that is no signature: {error}") from error
        raise AssertionError("the second try returns or raises")

    async def close(self) -> None:
        await self._client.close()
        await self._identity.close()

    async def _sent(self, request: HttpRequest) -> AsyncHttpResponse:
        response: AsyncHttpResponse = await self._client.send_request(
            request,
            enforce_https=self._endpoint.startswith(
                "https://"
            ),  # http:// is a stand-in on loopback: `access` sees to it
            connection_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
        )
        await response.read()
        return response

    def _checked(self, answer: Mapping[str, Any]) -> bytes:
        signature = _decoded(answer["value"])
        if urlsplit(str(answer["kid"])).path.lstrip("/") != self._path or len(signature) != 2 * SIZE:
            raise ValueError(f"{len(signature)} bytes of key {answer['kid']}")
        return signature


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _told(response: AsyncHttpResponse) -> str:
    """What the vault says of a refusal: its code, which names no secret, and its message's beginning."""
    try:
        error = response.json()["error"]
        said = f"{error['code']}: {' '.join(str(error['message']).split())[:200]}"
    except (KeyError, TypeError, ValueError):
        said = "no reason given"
    return f"Key Vault answers {response.status_code} ({said})"


def _why(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())[:300]
