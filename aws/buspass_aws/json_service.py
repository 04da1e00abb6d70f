"""One of AWS's services that speak JSON (KMS, Secrets Manager, Parameter Store), asked for one thing at a time.

Owns the protocol (AWS JSON 1.1) and what a refusal is called. Refuses to know what is asked, and how a request is
signed and sent (`client`). Everything here may be repeated, and is, three times at most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from buspass.ports.outbound import Ambiguous, NotSent, Response
from buspass_aws.client import Address, AwsClient, suffix, transient

TIMEOUT: Final = 5.0
"""Seconds that one try may take."""
_EXPIRED: Final = frozenset({"ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"})
_THROTTLED: Final = frozenset({"ThrottlingException", "LimitExceededException", "RequestLimitExceeded"})
_TARGETS: Final[Mapping[str, str]] = {
    "kms": "TrentService",
    "secretsmanager": "secretsmanager",
    "ssm": "AmazonSSM",
}


class Declined(Exception):  # noqa: N818 - named for what the service did
    """The service did not do it. `code` is its own name for why; empty where it was not reached."""

    def __init__(self, code: str, said: str) -> None:
        super().__init__(said)
        self.code = code


class JsonService:
    """One service in one region."""

    def __init__(self, service: str, at: Address) -> None:
        self._service = service
        self._client = AwsClient(
            service, at.region, at.endpoint or f"https://{service}.{at.region}.{suffix(at.region)}"
        )

    async def ask(self, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Give the answer. Raises Declined."""
        headers = {
            "content-type": "application/x-amz-json-1.1",
            "x-amz-target": f"{_TARGETS[self._service]}.{action}",
        }
        try:
            async with self._client.working():
                answer = await self._client.ask(
                    "POST", "/", headers=headers, body=json.dumps(body).encode(), timeout=TIMEOUT, again=_again
                )
        except (NotSent, Ambiguous) as error:
            raise Declined("", str(error)) from error
        found = _document(answer)
        if answer.status == 200:
            return found
        code = _code(found)
        if code in _EXPIRED:
            self._client.renew()
        message = found.get("message") or found.get("Message") or "no message"
        raise Declined(code, f"{answer.status} {code or 'without a code'}: {message}")

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.close()


def _document(answer: Response) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    if answer.status == 200:
        raise Declined("", "an answer that can't be read")
    return {}


def _code(document: Mapping[str, Any]) -> str:
    return str(document.get("__type") or "").rpartition("#")[2]


def _again(answer: Response) -> bool:
    if transient(answer):
        return True
    return answer.status == 400 and _code(_document(answer)) in _THROTTLED
