"""How a workload proves itself: where its OIDC token is found. httpx only, knows nothing of core.

In this order: what is handed in (text, or a function that gives it), `BUSPASS_WORKLOAD_TOKEN`,
`BUSPASS_WORKLOAD_TOKEN_FILE` (as Kubernetes projects it: read anew each time), Azure's managed identity
(`IDENTITY_ENDPOINT`) and AWS's `sts:GetWebIdentityToken` (needs boto3), both for `BUSPASS_AUDIENCE`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

type TokenSource = str | Callable[[], str] | None

ON_AWS: Final = ("AWS_LAMBDA_FUNCTION_NAME", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_WEB_IDENTITY_TOKEN_FILE")


def token(source: TokenSource = None) -> str:
    """Find the token that proves this workload. Raises LookupError that names the places looked at."""
    if source is not None:
        return source() if callable(source) else source
    if found := os.environ.get("BUSPASS_WORKLOAD_TOKEN"):
        return found
    if file := os.environ.get("BUSPASS_WORKLOAD_TOKEN_FILE"):
        return Path(file).read_text().strip()
    audience = os.environ.get("BUSPASS_AUDIENCE", "api://buspass")
    if endpoint := os.environ.get("IDENTITY_ENDPOINT"):
        return _managed_identity(endpoint, audience)
    if any(os.environ.get(name) for name in ON_AWS):
        return _web_identity(audience)
    raise LookupError(
        "no workload token: pass workload_token=, or set BUSPASS_WORKLOAD_TOKEN or BUSPASS_WORKLOAD_TOKEN_FILE "
        "(`buspass up` prints one for this machine; Azure's managed identity and AWS's web identity are found by "
        "themselves)"
    )


def _managed_identity(endpoint: str, audience: str) -> str:
    """Ask App Service's or Functions' identity endpoint (learn.microsoft.com, managed identity REST reference)."""
    headers = {"X-IDENTITY-HEADER": os.environ.get("IDENTITY_HEADER", "")}
    answer = httpx.get(endpoint, params={"resource": audience, "api-version": "2019-08-01"}, headers=headers)
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def _web_identity(audience: str) -> str:
    """Ask STS for a token of this role (boto3: the request is signed with the role's own credentials)."""
    try:
        boto3 = importlib.import_module("boto3")
    except ImportError as error:
        raise LookupError("on AWS the workload's token comes from STS, which needs boto3: pip install boto3") from error
    sts = boto3.client("sts")
    return str(sts.get_web_identity_token(Audience=[audience], SigningAlgorithm="RS256")["WebIdentityToken"])
