"""The blobs port: named bytes, each written whole: outcomes to replay, approval arguments, payload logs.

Owns names, entity tags and the conditions of a write. Refuses to know what the bytes are: they are encrypted
above this port, and an adapter sees nothing else.

Names are 1-8 segments `[A-Za-z0-9_.:-]{1,128}` joined by `/`, 512 characters at most; a segment never begins
with a dot, so that no name climbs out of its folder on any store.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

PAGE: Final = 1000
"""The largest `limit` of `list`."""

_NAME: Final = r"[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,127}(/[A-Za-z0-9_:-][A-Za-z0-9_.:-]{0,127}){0,7}"
_PREFIX: Final = r"[A-Za-z0-9_.:/-]{0,512}"
_LONGEST: Final = 512


class BlobConflict(Exception):  # noqa: N818  (the name is the port's word for what happened)
    """The condition of a put does not hold: another wrote, or deleted, first. Nothing was written."""


class BlobsUnavailable(Exception):  # noqa: N818
    """The store can't answer. A put or delete may have happened, or not: both are safe to repeat.

    A repeated conditional put may then meet its own first try as a BlobConflict: get, and compare.
    """


class Blobs(Protocol):
    """A store of blobs, safe for concurrent callers and processes.

    Every method raises ValueError for a bad name or limit, and BlobsUnavailable when the store can't answer
    or was closed. Each blob is replaced atomically: a reader sees the old bytes or the new ones, never a
    mixture.
    """

    async def put(self, name: str, data: bytes, *, if_match: str | None = None, if_none_match: bool = False) -> str:
        """Write the whole blob and give its entity tag, an opaque text that changes whenever the bytes do.

        `if_match`: only over the blob with this tag. `if_none_match`: only where there is none. Raises
        BlobConflict where the condition fails, ValueError where both are given. Once answered, the bytes are
        durable.
        """
        ...

    async def get(self, name: str) -> tuple[bytes, str] | None:
        """Give the bytes and their tag, or None. Strongly consistent."""
        ...

    async def delete(self, name: str) -> None:
        """Remove the blob. Idempotent: one that is not there is no error."""
        ...

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        """Give up to `limit` (1-1000) names that start with `prefix` and are > `after`, by code points.

        Fewer than `limit` means that there are no more. `prefix` is plain text, not a folder; both may be
        empty.
        """
        ...

    async def close(self) -> None:
        """Finish what is under way and let go. Idempotent; every later call raises BlobsUnavailable."""
        ...


def check_name(name: str) -> None:
    """Raise ValueError unless this is a blob's name."""
    if not isinstance(name, str) or len(name) > _LONGEST or not re.fullmatch(_NAME, name):
        raise ValueError(
            f"blob name {name!r}: allowed are 1-8 segments [A-Za-z0-9_.:-]{{1,128}} joined by '/', "
            f"none beginning with a dot, {_LONGEST} characters at most"
        )


def check_put(name: str, data: bytes, if_match: str | None, if_none_match: bool) -> None:
    """Raise ValueError unless name, bytes and conditions are ones a put may carry."""
    check_name(name)
    if not isinstance(data, bytes):
        raise ValueError(f"blob {name!r}: {type(data).__name__} given; a blob is bytes")  # noqa: TRY004  (one error for all)
    if if_match is not None and if_none_match:
        raise ValueError(f"blob {name!r}: if_match and if_none_match exclude each other")


def check_page(prefix: str, after: str, limit: int) -> None:
    """Raise ValueError unless these bounds and this limit are ones a list may carry."""
    for bound in (prefix, after):
        if not isinstance(bound, str) or not re.fullmatch(_PREFIX, bound):
            raise ValueError(f"{bound!r}: prefix and after are up to 512 characters of [A-Za-z0-9_.:/-]")
    if type(limit) is not int or not 1 <= limit <= PAGE:
        raise ValueError(f"limit {limit!r}: allowed are 1-{PAGE}")
