"""What an error of azure-cosmos means: whether a write was surely not done, and whether to wait and ask again.

Owns the reading of the SDK's errors. Refuses to know operations. Source of the codes: learn.microsoft.com/rest/api/
cosmos-db/http-status-codes-for-cosmosdb and …/azure/cosmos-db/nosql/conceptual-resilient-sdk-applications.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from aiohttp import ClientConnectorError
from azure.core.exceptions import AzureError, ClientAuthenticationError, ServiceRequestTimeoutError
from azure.cosmos.exceptions import CosmosBatchOperationError

_NOT_DONE: Final = frozenset({400, 401, 403, 404, 409, 410, 412, 413, 429, 449})
_LONGEST_PAUSE: Final = 0.25


def status_of(error: AzureError) -> int:
    """Give the HTTP status that the service answered with, for a batch that of the operation that failed; 0: none."""
    return int(getattr(error, "status_code", None) or 0)


def surely_not_done(error: AzureError) -> bool:
    """Say whether the service surely did nothing, and will not.

    408 and every 5xx may come after the deed; 503 is documented as safe to repeat, not as undone. Of errors
    without an answer only a connection that never stood, and a token that was never got, came before it: the SDK
    says "not sent" (ServiceRequestError) also of a connection that closed after the request had gone out.
    """
    if status_of(error):
        return status_of(error) in _NOT_DONE
    if isinstance(error, ClientAuthenticationError | ServiceRequestTimeoutError):
        return True
    return isinstance(getattr(error, "inner_exception", None), ClientConnectorError)


def failed_step(error: AzureError) -> int | None:
    """Give the number of the batch's step that failed; None where the batch as a whole did."""
    return error.error_index if isinstance(error, CosmosBatchOperationError) else None


def missing_item(error: AzureError) -> bool:
    """Say whether a read found no item, as opposed to no container or no session (a sub-status says those)."""
    return status_of(error) == 404 and not getattr(error, "sub_status", None)


def why(error: AzureError) -> str:
    """Say in one line what the service or the connection said."""
    text = " ".join(str(getattr(error, "message", None) or error).split())
    return f"Cosmos DB: {status_of(error) or type(error).__name__}: {text[:200]}"


class Pauses:
    """The waiting before something is tried again, until `patience` seconds are over."""

    def __init__(self, patience: float) -> None:
        self._until = time.monotonic() + patience
        self._next = 0.005

    async def pause(self, error: AzureError) -> bool:
        """Wait as long as the service asks for, or twice as long as before; False: the patience does not last."""
        asked = _asked_for(error)
        seconds = self._next * (0.5 + random.random()) if asked is None else asked  # noqa: S311  (no secret)
        self._next = min(self._next * 2, _LONGEST_PAUSE)
        if time.monotonic() + seconds > self._until:
            return False
        await asyncio.sleep(seconds)
        return True


def _asked_for(error: AzureError) -> float | None:
    """Seconds after which the service wants to be asked again."""
    step = failed_step(error)
    if step is not None:
        given = getattr(error, "operation_responses", [])[step].get("retryAfterMilliseconds")
    else:
        given = (getattr(error, "headers", None) or {}).get("x-ms-retry-after-ms")
    return None if given is None else int(given) / 1000
