"""Azure Blob Storage as a blobs store: a blob of the port is a block blob, its tag the service's ETag.

Owns the way from the port's methods to the SDK's and what its errors mean. Refuses to know what the bytes are. A put
is never sent twice by itself: a conditional one could meet its own first try.

Proven on Azurite, Microsoft's own stand-in. Unproven until `make test-cloud` ran on an account of your own: Entra ID,
and `startFrom`, which lets a page begin where the last one ended (Azurite begins at the prefix: right, but slower).
The account must not have a hierarchical namespace, where `a` and `a/b` can't both be blobs.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core import MatchConditions
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob.aio import ContainerClient, LinearRetry

from buspass.ports.blobs import BlobConflict, Blobs, BlobsUnavailable, check_name, check_page, check_put
from buspass_azure import access

CONNECT_SECONDS: Final = 3
ANSWER_SECONDS: Final = 20

_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
_CONTAINER: Final = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_TAG: Final = re.compile(r'"?0x[0-9A-Fa-f]+"?')
_OVERTAKEN: Final = 3
"""Times that a blob may be replaced while its parts are read."""


async def open(url: str) -> Blobs:  # noqa: A001  (the name of every adapter's way in)
    """Open `azblob://ACCOUNT/CONTAINER[?endpoint=URL&key=VARIABLE]`; options: `access`. The container must exist.

    Raises ValueError for a bad URL or a container that isn't there or ours, BlobsUnavailable where the account can't
    be reached.
    """
    parts = urlsplit(url)
    name = parts.path.removeprefix("/")
    if (
        parts.scheme != "azblob"
        or parts.fragment
        or not _ACCOUNT.fullmatch(parts.netloc)
        or not _CONTAINER.fullmatch(name)
    ):
        raise ValueError(f"{url!r}: allowed is azblob://ACCOUNT/CONTAINER[?endpoint=URL&key=VARIABLE]")
    endpoint = access.endpoint_of(url, f"https://{parts.netloc}.blob.core.windows.net")
    key = access.key_of(url)
    identity = access.identity() if key is None else None
    client = ContainerClient(
        endpoint,
        name,
        identity or {"account_name": parts.netloc, "account_key": key or ""},
        retry_policy=LinearRetry(backoff=1, retry_total=1, random_jitter_range=0),
        connection_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        transport=access.transport(),
    )
    blobs = AzureBlobs(client, identity)
    try:
        await client.get_container_properties()
    except AzureError as error:
        await blobs.close()
        status = getattr(error, "status_code", None)
        if status in (400, 401, 403, 404):
            raise ValueError(f"{url!r}: the container can't be had ({status}): {_why(error)}") from error
        raise BlobsUnavailable(_why(error)) from error
    return blobs


class AzureBlobs:
    """The port over a container that exists. Bound to the event loop it was opened on."""

    def __init__(self, container: ContainerClient, identity: AsyncTokenCredential | None) -> None:
        self._container, self._identity = container, identity
        self._calls = access.Calls()

    async def put(self, name: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        check_put(name, data, if_match, if_none_match)
        conditions: dict[str, Any] = {"overwrite": not if_none_match}
        if if_match is not None:
            if not _TAG.fullmatch(if_match):
                raise BlobConflict(f"blob {name!r} is not the one with tag {if_match!r}: no blob here has such a tag")
            conditions |= {"etag": if_match, "match_condition": MatchConditions.IfNotModified}
        conditional = if_match is not None or if_none_match
        async with self._calling():
            try:
                blob = self._container.get_blob_client(name)
                return str((await blob.upload_blob(data, retry_total=0, **conditions))["etag"])
            except (ResourceExistsError, ResourceModifiedError) as error:
                if conditional:
                    raise BlobConflict(f"blob {name!r}: {_why(error)}") from error
                raise
            except ResourceNotFoundError as error:
                if if_match is not None and _code(error) == "BlobNotFound":
                    raise BlobConflict(f"blob {name!r}: {_why(error)}") from error
                raise

    async def get(self, name: str) -> tuple[bytes, str] | None:
        check_name(name)
        async with self._calling():
            for _ in range(_OVERTAKEN):
                with contextlib.suppress(ResourceModifiedError):  # replaced between its parts: read it anew
                    return await self._got(name)
            raise BlobsUnavailable(f"blob {name!r} is being replaced all the time")

    async def delete(self, name: str) -> None:
        check_name(name)
        async with self._calling():
            try:
                await self._container.delete_blob(name, delete_snapshots="include")
            except ResourceNotFoundError as error:
                if _code(error) != "BlobNotFound":
                    raise

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        check_page(prefix, after, limit)
        start = after if after.startswith(prefix) and after else None
        names: list[str] = []
        async with self._calling():
            async for name in self._container.list_blob_names(name_starts_with=prefix or None, start_from=start):
                if name > after:
                    names.append(name)
                if len(names) == limit:
                    break
        return names

    async def close(self) -> None:
        async with self._calls.ending() as first:
            if first:
                await self._container.close()
                if self._identity is not None:
                    await self._identity.close()

    async def _got(self, name: str) -> tuple[bytes, str] | None:
        try:
            download = await self._container.download_blob(name)
            return await download.readall(), str(download.properties.etag)
        except ResourceNotFoundError as error:
            if _code(error) == "BlobNotFound":
                return None
            raise

    @contextlib.asynccontextmanager
    async def _calling(self) -> AsyncIterator[None]:
        if self._calls.closed:
            raise BlobsUnavailable("the store is closed")
        async with self._calls.one():
            try:
                yield
            except AzureError as error:
                raise BlobsUnavailable(_why(error)) from error


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)  # an enumeration's member, or text where the SDK has no member for it
    return str(getattr(code, "value", code))


def _why(error: AzureError) -> str:
    return f"Azure Blob Storage: {' '.join(str(error.message or error).split())[:200]}"
