"""What proves a message to who gets it: the headers of Standard Webhooks 1.0.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from typing import Final

PREFIX: Final = "whsec_"
LEAST: Final = 24
"""Bytes that a secret has at least."""


def signed(secret: str, message: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Give the headers of a message sent at `timestamp` (s). Raises ValueError for a secret that proves nothing.

    The signature is HMAC-SHA256 over `ID.TIMESTAMP.BODY`, under the secret: base64 after `whsec_`, else its own bytes.
    """
    content = f"{message}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(_key(secret), content, "sha256")).decode()
    return {
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
        "content-type": "application/json",
        "user-agent": "buspass",
    }


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True) if secret.startswith(PREFIX) else b""
    except binascii.Error:
        raise ValueError("no base64 after whsec_") from None
    key = key or secret.encode()
    if len(key) < LEAST:
        raise ValueError(f"shorter than {LEAST} bytes")
    return key
