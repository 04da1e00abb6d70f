"""Where a host's access keys come from: the function's environment, or else botocore's own chain.

Owns when keys are asked for anew. Refuses to know what they sign.

A function finds its keys in the environment, and they outlive it: reading them costs nothing. Everything else
(containers, instances, profiles, web identities, SSO) is botocore's, imported only then, and never on the event loop
where it would wait for a network.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from buspass_aws.signing import Keys


class CredentialsMissing(Exception):  # noqa: N818  (the name says what is the matter)
    """Nobody on this host has keys to AWS, or they could not be renewed."""


class Credentials:
    """The keys of this process. `renew` after AWS called them expired."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._found: Any = None
        self._looking = asyncio.Lock()

    async def keys(self) -> Keys:
        """Give the keys that are good now. Raises CredentialsMissing."""
        if (keys := from_environment(self._environ)) is not None:
            return keys
        if self._found is None or _stale(self._found):
            async with self._looking:
                return await asyncio.to_thread(self._frozen)
        return _frozen(self._found)

    def renew(self) -> None:
        """Forget what was found: it is looked for again."""
        self._found = None

    def _frozen(self) -> Keys:
        try:
            if self._found is None:
                self._found = _look()
            return _frozen(self._found)
        except CredentialsMissing:
            raise
        except Exception as error:  # a dozen kinds of provider, each with errors of its own
            raise CredentialsMissing(f"the keys to AWS can't be had: {error}") from error


def from_environment(environ: Mapping[str, str]) -> Keys | None:
    """Give what botocore's chain would find in the environment, which comes first in it."""
    access, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if not access or not secret:
        return None
    token = environ.get("AWS_SECURITY_TOKEN") or environ.get("AWS_SESSION_TOKEN") or ""
    return Keys(access=access, secret=secret, token=token)


def _look() -> Any:
    try:
        from botocore.session import Session  # noqa: PLC0415  (200 ms, for hosts that need more than the environment)
    except ImportError as error:
        raise CredentialsMissing(
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and profiles, containers and instances need "
            "botocore: install buspass[aws]"
        ) from error
    found = Session().get_credentials()
    if found is None:
        raise CredentialsMissing("no keys to AWS: none in the environment, a profile, the container or the instance")
    return found


def _stale(found: Any) -> bool:
    """Say whether to hand these out would first wait for a network: long-lived keys never do."""
    return bool(getattr(found, "refresh_needed", bool)())


def _frozen(found: Any) -> Keys:
    frozen = found.get_frozen_credentials()
    return Keys(access=frozen.access_key, secret=frozen.secret_key, token=frozen.token or "")
