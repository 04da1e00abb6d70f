"""Secrets of AWS Secrets Manager or of Systems Manager's Parameter Store, by the configuration's names.

Owns what a name is called there. Refuses to know what a secret is for, and to say its value. A variable of that name in
the environment goes before, as on every host.

| BUSPASS_SECRETS                          | `secret: NAME` is                                     |
|------------------------------------------|-------------------------------------------------------|
| `secretsmanager://PREFIX?region=REGION`  | the secret `PREFIX/NAME`, its text                    |
| `ssm://PREFIX?region=REGION`             | the parameter `/PREFIX/NAME`, decrypted where it must |
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import Final

from buspass.ports.secrets import SecretMissing, Secrets
from buspass_aws.client import address
from buspass_aws.json_service import Declined, JsonService

KEPT: Final = 240.0
"""Seconds that a value is kept: a rotated one is seen within five minutes."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){0,5}")
_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "secretsmanager": ("GetSecretValue", "secretsmanager:GetSecretValue"),
    "ssm": ("GetParameter", "ssm:GetParameter"),
}


def open(environ: Mapping[str, str]) -> Secrets:  # noqa: A001  (the name of every adapter's way in)
    """Give the store that BUSPASS_SECRETS names. Asks nothing. Raises ValueError."""
    url = environ["BUSPASS_SECRETS"]
    scheme = url.partition(":")[0]
    form = f"{scheme}://PREFIX?region=REGION"
    at = address(url, form)
    prefix = f"{at.name}{at.rest}".strip("/")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{url!r}: allowed is {form}, with a prefix of segments [A-Za-z0-9_.-]")
    return AwsSecrets(JsonService(scheme, at), scheme, prefix, environ)


class AwsSecrets:
    """The secrets below one prefix."""

    def __init__(
        self,
        service: JsonService,
        kind: str,
        prefix: str,
        environ: Mapping[str, str],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service, self._kind, self._prefix, self._environ = service, kind, prefix, environ
        self._monotonic = monotonic
        self._kept: dict[str, tuple[float, str]] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    def at_once(self, name: str) -> str | None:
        """Give what is kept, and no variable's."""
        return None if name in self._environ else self._fresh(name)

    async def get(self, name: str) -> str:
        """Give the secret. Raises SecretMissing where there is none, it is empty or can't be had now."""
        if not _NAME.fullmatch(name):
            raise SecretMissing(f"secret {name!r}: names are [A-Za-z0-9_.-], 128 at most, no leading dot")
        if name in self._environ:
            return _present(name, self._environ[name], "the environment variable")
        async with self._asking.setdefault(name, asyncio.Lock()):
            if (value := self._fresh(name)) is None:
                now, value = self._monotonic(), await self._asked(name)
                self._kept[name] = now, value
        return value

    def _fresh(self, name: str) -> str | None:
        at, value = self._kept.get(name, (0.0, None))
        return None if value is None or self._monotonic() - at > KEPT else value

    async def _asked(self, name: str) -> str:
        action, permission = _WORDS[self._kind]
        manager = self._kind == "secretsmanager"
        place = f"{self._prefix}/{name}" if manager else f"/{self._prefix}/{name}"
        asked = {"SecretId": place} if manager else {"Name": place, "WithDecryption": True}
        where = f"{self._kind} {place}"
        try:
            answer = await self._service.ask(action, asked)
        except Declined as error:
            advice = f"; the host's role needs {permission} on it" if "AccessDenied" in error.code else ""
            raise SecretMissing(
                f"secret {name}: no environment variable of that name, and {where}: {error}{advice}"
            ) from None
        text = answer.get("SecretString") if manager else (answer.get("Parameter") or {}).get("Value")
        if not isinstance(text, str):
            raise SecretMissing(f"secret {name}: {where} holds no text")
        return _present(name, text, where)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._service.close()


def _present(name: str, value: str, where: str) -> str:
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise SecretMissing(f"secret {name}: {where} is empty")
    return value
