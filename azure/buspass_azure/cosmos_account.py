"""A Cosmos DB account that can keep the state port's promises: its URL, its client, and what is checked at opening.

Owns addresses, identity, timeouts and the SDK's retries (off). Refuses to know items. Importing the
SDK costs a quarter of a second: only the table of adapters imports these modules, when a URL asks for them.

**Why the SDK's retries are off.** Of azure-cosmos 4.17, read in its source: 429 is tried again nine times and 503 once
for each region, writes too; and aiohttp's errors reach it as `ServiceRequestError`, "not sent", even where the server
closed the connection after it had read the request, whereupon a write is sent again (`_retry_utility_async`,
`_service_request_retry_policy`). A write that was applied and then repeated would be told that it was refused. So no
policy may repeat anything: `retry_*` 0, throttling -1 (0 means the default there), no endpoint discovery, without
which the cross-region policies do nothing. All requests then go to the account's own endpoint, whose name follows the
write region on a failover. What may be repeated, `cosmos` repeats itself.
"""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import AzureError
from azure.cosmos.aio import ContainerProxy, CosmosClient
from msgspec import Struct

from buspass.ports.state import Unavailable
from buspass_azure import access

CONTAINER: Final = "buspass"
PARTITION_PATH: Final = "/part"
CONNECT_SECONDS: Final = 3
ANSWER_SECONDS: Final = 8
"""A batch may run for five seconds in the service."""

_ACCOUNT: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,42}[a-z0-9]")


class Address(Struct, frozen=True, kw_only=True):
    """Where an account's container is. `key` is an account key; None: the identity this process has in Entra ID."""

    endpoint: str
    database: str
    container: str
    key: str | None


class Account(Struct, frozen=True, kw_only=True):
    """An open client, and what has to be closed with it."""

    client: CosmosClient
    container: ContainerProxy
    credential: AsyncTokenCredential | None

    async def close(self) -> None:
        await self.client.close()
        if self.credential is not None:
            await self.credential.close()


def parse(url: str) -> Address:
    """Read `cosmos://ACCOUNT/DATABASE[/CONTAINER]` and the options that `access` knows. Raises ValueError."""
    parts = urlsplit(url)
    names = [unquote(name) for name in parts.path.split("/")[1:]]
    if parts.scheme != "cosmos" or parts.fragment or len(names) not in (1, 2) or not all(names):
        raise ValueError(f"{url!r}: allowed is cosmos://ACCOUNT/DATABASE[/CONTAINER][?endpoint=URL&key=VARIABLE]")
    if not _ACCOUNT.fullmatch(parts.netloc):
        raise ValueError(f"{url!r}: an account's name is 3-44 of a-z, 0-9 and '-'")
    return Address(
        endpoint=access.endpoint_of(url, f"https://{parts.netloc}.documents.azure.com:443/"),
        database=names[0],
        container=names[1] if len(names) == 2 else CONTAINER,
        key=access.key_of(url),
    )


async def connect(address: Address) -> Account:
    """Open the account and check it. Raises ValueError where it can't keep the port's promises, and Unavailable."""
    credential = access.identity() if address.key is None else None
    client = CosmosClient(
        address.endpoint,
        credential or address.key or "",
        connection_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        retry_total=0,
        retry_connect=0,
        retry_read=0,
        retry_status=0,
        retry_throttle_total=-1,
        retry_write=False,
        enable_endpoint_discovery=False,
        transport=access.transport(),
        enable_compact_utf8_item_writes=True,  # the limit of 2 MB is one of UTF-8
    )
    container = client.get_database_client(address.database).get_container_client(address.container)
    account = Account(client=client, container=container, credential=credential)
    try:
        await client.__aenter__()
        _check_account(await client._get_database_account(), address)  # noqa: SLF001  (there is no public way)
        # from here on with every request: an account that comes down to less answers 400 instead of an old item
        client.client_connection.default_headers["x-ms-consistency-level"] = "Strong"
        _check_container(await container.read(), address)
    except AzureError as error:
        await account.close()
        raise _unopened(error, address) from error
    except BaseException:
        await account.close()
        raise
    return account


def _check_account(found: Any, address: Address) -> None:
    level = (found.ConsistencyPolicy or {}).get("defaultConsistencyLevel")
    if level != "Strong":
        raise ValueError(
            f"the Cosmos DB account at {address.endpoint} has consistency {level}; Buspass needs Strong: with any "
            f"other a process may read what another has already spent"
        )
    if found._EnableMultipleWritableLocations:  # noqa: SLF001  (there is no public way)
        raise ValueError(f"the Cosmos DB account at {address.endpoint} writes in several regions; Buspass needs one")


def _check_container(found: Any, address: Address) -> None:
    where = f"container {address.container!r} of database {address.database!r}"
    key = found.get("partitionKey", {})
    if key.get("paths") != [PARTITION_PATH] or key.get("version") != 2:
        raise ValueError(f"{where} has partition key {key}; Buspass needs {PARTITION_PATH}, version 2 (large keys)")
    if found.get("defaultTtl") is not None:
        raise ValueError(f"{where} has a time to live; Buspass ends things itself: turn it off")


def _unopened(error: Exception, address: Address) -> Exception:
    status = getattr(error, "status_code", None)
    where = f"container {address.container!r} of database {address.database!r} at {address.endpoint}"
    if status == 404:
        return ValueError(f"there is no {where}; make it with partition key {PARTITION_PATH}")
    if status in (400, 401, 403):
        return ValueError(f"{where} can't be opened ({status}): {_brief(error)}")
    return Unavailable(0, f"{where} can't be reached: {_brief(error)}")


def _brief(error: Exception) -> str:
    return str(getattr(error, "message", None) or error).partition("\n")[0][:200]
