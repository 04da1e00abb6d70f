"""A key in AWS's Key Management Service as the host's signing key: the private half never leaves it.

Owns which key is asked, and what of its answers is a signature. Refuses to know what is signed. The key is there
already: ECC_NIST_P256, for SIGN_VERIFY; nothing here makes one.

The public half is asked for once, when the host comes up, and by its thumbprint the domain knows the key. An alias that
is pointed at another key is seen at the next start: until then the old key signs, which KMS keeps.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from buspass.errors import ConfigError
from buspass.identity.jwk import jose_signature, public_jwk
from buspass.ports.signer import Signer, SignerUnavailable
from buspass_aws.client import address
from buspass_aws.json_service import Declined, JsonService

_FORM: Final = "kms://KEY?region=REGION, with KEY an alias (alias/NAME), a key's id or its ARN"
_KEY: Final = re.compile(r"alias/[A-Za-z0-9/_-]{1,250}|mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ARN: Final = re.compile(rf"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):\d{{12}}:(key/)?(?P<key>{_KEY.pattern})")
_ALGORITHM: Final = "ECDSA_SHA_256"


class KmsSigner:
    """An ES256 key in KMS."""

    algorithm: str = "ES256"

    def __init__(self, service: JsonService, key: str, jwk: Mapping[str, str]) -> None:
        self._service, self._key = service, key
        self.jwk: Mapping[str, str] = jwk

    async def sign(self, data: bytes) -> bytes:
        asked = {
            "KeyId": self._key,
            "Message": base64.b64encode(hashlib.sha256(data).digest()).decode(),
            "MessageType": "DIGEST",
            "SigningAlgorithm": _ALGORITHM,
        }
        try:
            answer = await self._service.ask("Sign", asked)
            return jose_signature(base64.b64decode(answer["Signature"], validate=True))
        except (Declined, KeyError, ValueError) as error:
            raise SignerUnavailable(f"KMS key {self._key}: {error}") from error

    async def close(self) -> None:
        """Let go of the connections."""
        await self._service.close()


async def open(url: str, *, data: Path, create: bool) -> Signer:  # noqa: A001, ARG001  (the adapters' common entry)
    """Open `kms://KEY?region=REGION[&endpoint=URL]` and ask for its public half. Raises ConfigError."""
    what = f"signer {url}"
    service, key = _service(url)
    try:
        answer = await service.ask("GetPublicKey", {"KeyId": key})
        return KmsSigner(service, _pinned(answer, key), public_jwk(_public(answer, what)))
    except Declined as error:
        await service.close()
        raise ConfigError([f"{what}: {error}{_advice(error)}"]) from error
    except ConfigError:
        await service.close()
        raise


def _service(url: str) -> tuple[JsonService, str]:
    arn = _ARN.fullmatch(url.partition("?")[0].removeprefix("kms://"))
    named = url
    if arn and "region=" not in url:
        named = f"{url}{'&' if '?' in url else '?'}region={arn['region']}"
    try:
        at = address(named, _FORM)
    except ValueError as error:
        raise ConfigError([f"signer {error}"]) from error
    key = f"{at.name}{at.rest}"
    if not _KEY.fullmatch(key) and not arn:
        raise ConfigError([f"signer {url}: {key!r} is none of KMS's names; allowed is {_FORM}"])
    return JsonService("kms", at), key


def _pinned(answer: Mapping[str, Any], key: str) -> str:
    """Give the key's own ARN: an alias may be pointed elsewhere while its old public half is what others know."""
    found = str(answer.get("KeyId") or key)
    return found if _ARN.fullmatch(found) and ":alias/" not in found else key


def _public(answer: Mapping[str, Any], what: str) -> ec.EllipticCurvePublicKey:
    spec, usage = answer.get("KeySpec") or answer.get("CustomerMasterKeySpec"), answer.get("KeyUsage")
    if usage != "SIGN_VERIFY" or _ALGORITHM not in answer.get("SigningAlgorithms", ()):
        raise ConfigError([f"{what}: a key of {spec} for {usage}; ES256 needs one of ECC_NIST_P256 for SIGN_VERIFY"])
    try:
        public = load_der_public_key(base64.b64decode(answer["PublicKey"], validate=True))
    except (KeyError, ValueError) as error:
        raise ConfigError([f"{what}: its public key can't be read: {error}"]) from error
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise ConfigError([f"{what}: a key of {spec}; ES256 needs one of ECC_NIST_P256"])
    return public


def _advice(error: Declined) -> str:
    if error.code == "AccessDeniedException":
        return "; the host's role needs kms:GetPublicKey and kms:Sign on this key"
    if error.code == "NotFoundException":
        return "; make the key, and the alias: the gateway never does"
    return ""
