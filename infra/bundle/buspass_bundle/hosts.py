"""What each host's bundle is made of: one table. Refuses to know how it is made.

`base` and the stores' groups are locks in `infra/bundle/locks`: names, versions and hashes, all of them a part of
requirements.lock, made by `make lock`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
LOCKS: Final = Path(__file__).resolve().parents[1] / "locks"
PYTHON: Final = (3, 13)
"""What every host runs: bytecode and wheels are for this version."""
MACHINES: Final[Mapping[str, str]] = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Platforms by the name that Lambda and container registries have for them, and the wheels' name."""
GLIBC: Final = "2_34"
"""Amazon Linux 2023's, the oldest of the hosts'. The policy engine has no wheel for an older one."""
PACKAGES: Final = ("core/buspass", "aws/buspass_aws", "azure/buspass_azure", "onprem/buspass_onprem")
"""Any host can use any store, so all four go into every bundle, one megabyte. What they need goes by what is used."""
STORES: Final[Mapping[str, str]] = {
    "redis": "redis",
    "cosmos": "azure-stores",
    "azblob": "azure-stores",
    "keyvault": "azure-stores",
    "dynamodb": "aws-keys",
    "s3": "aws-keys",
    "kms": "aws-keys",
}
"""The lock that a URL's scheme asks for."""


class BundleError(Exception):
    """The bundle can't be made. The message says what is wrong and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One host. `lib`: where its packages lie, from the bundle's root; `entry`: files at the root, from the repository.

    `given`: locks that the host's platform makes needless; `zipped`, `unpacked`: bytes that it may have at most.
    """

    name: str
    cloud: str
    machines: tuple[str, ...]
    lib: str
    entry: tuple[str, ...]
    given: frozenset[str] = frozenset()
    zipped: int
    unpacked: int


HOSTS: Final[Mapping[str, Host]] = {
    host.name: host
    for host in (
        Host(
            name="lambda",
            cloud="aws",
            machines=("arm64", "x86_64"),
            lib=".",
            entry=("aws/bootstrap", "aws/lambda_function.py"),
            given=frozenset({"aws-keys"}),  # the environment has them, and botocore is in the runtime
            zipped=45_000_000,
            unpacked=140_000_000,
        ),
        Host(
            name="azure",
            cloud="azure",
            machines=("x86_64",),  # Flex Consumption has no other
            lib=".python_packages/lib/site-packages",  # where the Functions worker looks
            entry=("azure/function_app.py", "azure/host.json"),
            zipped=60_000_000,
            unpacked=200_000_000,
        ),
        Host(
            name="onprem",
            cloud="onprem",
            machines=("x86_64", "arm64"),
            lib="lib",
            entry=(),
            zipped=60_000_000,
            unpacked=200_000_000,
        ),
    )
}
