"""Secrets on-prem: environment variables, or files as Kubernetes and Docker mount them.

Owns where a name is looked up. Refuses to know what a secret is for, and to say its value.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from buspass.ports.secrets import SecretMissing

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_LARGEST: Final = 65_536
_KEPT: Final = 60.0
"""Seconds that a file's value is kept: a rotated one is seen within a minute."""


class HostSecrets:
    """The variable NAME, else the file NAME in the directory that BUSPASS_SECRETS names.

    A final line break does not belong to the secret. Files are read again after a minute.
    """

    def __init__(self, environ: Mapping[str, str], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._environ = environ
        folder = environ.get("BUSPASS_SECRETS")
        self._folder = Path(folder) if folder else None
        self._monotonic = monotonic
        self._kept: dict[str, tuple[float, str]] = {}
        self._variables: set[str] = set()
        """Names that were good, and a variable's."""

    def at_once(self, name: str) -> str | None:
        """Give a variable's value, once it was got."""
        if name not in self._variables or not (value := self._environ.get(name)):
            return None
        return value.removesuffix("\n").removesuffix("\r") or None

    async def get(self, name: str) -> str:
        """Give the secret. Raises SecretMissing where there is none, it is empty or its name is unusable."""
        if not _NAME.fullmatch(name):
            raise SecretMissing(f"secret {name!r}: names are [A-Za-z0-9_.-], 128 at most, no leading dot")
        if name in self._environ:
            self._variables.add(name)
            return _present(name, self._environ[name], "the environment variable")
        if self._folder is None:
            raise SecretMissing(
                f"secret {name}: no environment variable of that name, and BUSPASS_SECRETS names no directory"
            )
        kept = self._kept.get(name)
        if kept is None or self._monotonic() - kept[0] > _KEPT:
            value = await asyncio.to_thread(_from_file, self._folder / name, name)
            kept = self._kept[name] = (self._monotonic(), value)
        return kept[1]


def _from_file(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise SecretMissing(f"secret {name}: {path} is larger than {_LARGEST} bytes")
        return _present(name, content.decode(), f"the file {path}")
    except OSError as error:
        raise SecretMissing(
            f"secret {name}: no environment variable of that name, and {path}: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        raise SecretMissing(f"secret {name}: {path} is not UTF-8 text") from None


def _present(name: str, value: str, where: str) -> str:
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise SecretMissing(f"secret {name}: {where} is empty")
    return value
