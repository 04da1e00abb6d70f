"""The headers by which the gateway proves itself, and on whose behalf it acts, to the service behind a tool.

Secret values and signed tokens are handed in. Refuses to know where a secret is kept and how a token is signed.
"""

from __future__ import annotations

from buspass.config.settings import Auth
from buspass.errors import Problem


def headers(
    auth: Auth,
    *,
    secret: str | None = None,
    txn_token: str | None = None,
    traceparent: str | None = None,
    idempotency_key: str | None = None,
) -> dict[str, str]:
    """Headers for one dispatch. Raises `internal` where the value that `auth` asks for is missing or unusable.

    White space around a secret, as files have it, is dropped. The agent's own token never gets here.
    """
    sent = dict(_credential(auth, secret, txn_token))
    if traceparent:
        sent["traceparent"] = traceparent
    if idempotency_key:
        sent["Idempotency-Key"] = _sendable("the idempotency key", idempotency_key)
    return sent


def _credential(auth: Auth, secret: str | None, txn_token: str | None) -> dict[str, str]:
    match auth.kind:
        case "none":
            return {}
        case "txn":
            return {"Txn-Token": _sendable("the Txn-Token", txn_token)}
        case "bearer":
            return {"Authorization": "Bearer " + _sendable(f"secret {auth.secret}", secret)}
        case "header":
            return {auth.header: _sendable(f"secret {auth.secret}", secret)}


def _sendable(what: str, value: str | None) -> str:
    text = (value or "").strip()
    if not text:
        raise Problem("internal", f"{what} is missing at this host")
    if not (text.isascii() and text.isprintable()):
        raise Problem("internal", f"{what} has characters that no header may carry")
    return text
