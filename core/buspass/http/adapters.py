"""The one table of strings that maps a URL's scheme to its adapter, imported on use: any host can use any store.

Owns which module opens what. Core imports no adapter in the text of its code, so a host's bundle carries only those it
needs, and a missing one says what to install.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from buspass.errors import ConfigError
from buspass.ports.secrets import Secrets

ADAPTERS: Final[Mapping[tuple[str, str], str]] = {
    ("state", "sqlite"): "buspass_onprem.sqlite:open",
    ("state", "redis"): "buspass_onprem.redis:open",
    ("state", "dynamodb"): "buspass_aws.dynamodb:open",
    ("state", "cosmos"): "buspass_azure.cosmos:open",
    ("state", "memory"): "buspass.testing.state_memory:open",
    ("blobs", "s3"): "buspass_aws.s3:open",
    ("blobs", "file"): "buspass_onprem.files:open",
    ("blobs", "azblob"): "buspass_azure.blobs:open",
    ("signer", "file"): "buspass_onprem.signer:open",
    ("signer", "kms"): "buspass_aws.kms:open",
    ("signer", "keyvault"): "buspass_azure.keyvault:open",
    ("keys", "domain"): "buspass_onprem.signer:domain_key",
    ("keys", "operator"): "buspass_onprem.signer:operator_key",
    ("secrets", "host"): "buspass_onprem.secrets:HostSecrets",
    ("secrets", "secretsmanager"): "buspass_aws.secrets:open",
    ("secrets", "ssm"): "buspass_aws.secrets:open",
}


def adapter(port: str, scheme: str) -> Callable[..., Any]:
    """Give the function that opens this port at this scheme. Raises ConfigError."""
    if (place := ADAPTERS.get((port, scheme))) is None:
        known = ", ".join(sorted(name for kind, name in ADAPTERS if kind == port))
        raise ConfigError([f"{port}: no adapter for {scheme!r}; this release has {known}"])
    module, _, name = place.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError([f"{port} {scheme}: {error}; install the package that brings {module}"]) from error
    return found


async def opened(port: str, url: str) -> Any:
    """Open a port at a URL. Raises ConfigError for a URL that the adapter refuses."""
    way_in: Callable[[str], Awaitable[Any]] = adapter(port, url.partition(":")[0])
    try:
        return await way_in(url)
    except ValueError as error:
        raise ConfigError([f"{port}: {error}"]) from error


def secrets_of(environ: Mapping[str, str]) -> Secrets:
    """Give the host's own store of secrets, that BUSPASS_SECRETS names: a URL, or a directory. Raises ConfigError."""
    scheme, mark, _ = environ.get("BUSPASS_SECRETS", "").partition("://")
    try:
        found: Secrets = adapter("secrets", scheme if mark else "host")(environ)
    except ValueError as error:
        raise ConfigError([f"BUSPASS_SECRETS: {error}"]) from error
    return found
