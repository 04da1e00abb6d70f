"""A task's placeholders as one call knows them: read where they are wanting, kept before one leaves the host.

Owns when the table is read. Most calls make no placeholder and hold none, and then it is not. Refuses to know what is
replaced: that is `screening`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping

from buspass.calls.house import House
from buspass.errors import Problem
from buspass.journal import Erased
from buspass.mediation.placeholders import Placeholders
from buspass.tasks import Task


class PlaceholderTable:
    """One call's. `meet` its task before anything else. `shared`: the task's calls know each other's placeholders."""

    def __init__(self, house: House, *, shared: bool) -> None:
        self._house = house
        self._shared = self.unread = shared
        self._task: Task | None = None
        self._placeholders: Placeholders | None = None
        self._kept: Mapping[str, str] = {}
        self._lost = False
        self.mentioned = False
        """What may be a placeholder stands in what was looked into."""

    def meet(self, task: Task) -> None:
        """Know whose call it is. Raises Problem task_not_open where the task's key was erased."""
        if self._task is None:
            opened(self._house, task)
            self._task = task

    @property
    def placeholders(self) -> Placeholders | None:
        """Those known and made here; None before the task is met."""
        if self._placeholders is None and self._task is not None:
            self._placeholders = Placeholders(self._secret(self._task))
        return self._placeholders

    def scratch(self) -> Placeholders | None:
        """Give what may make placeholders that nobody keeps."""
        return Placeholders(self._secret(self._task), self._kept) if self._task is not None else None

    @property
    def wanting(self) -> bool:
        """Whether the table must be read, and what was looked into looked into again.

        A placeholder made without it might be another value's; one that the request holds may come back in the answer.
        """
        return self._lost or (self.unread and (self.mentioned or self._made()))

    def _made(self) -> bool:
        return self._placeholders is not None and bool(self._placeholders.made)

    async def prepare(self) -> None:
        """Read the table if that was not done; what was made before must be made again. Raises Problem as `read`."""
        await self.read()
        self._lost = False

    async def read(self) -> None:
        """Read the table, where the task has one. Raises Problem state_unavailable, internal."""
        if not self.unread or self._task is None:
            return
        found = await self._house.vault.get(opened(self._house, self._task), _name(self._task))
        if not self.unread:  # it was read twice at once
            return
        self._lost = self._made()
        self._kept = json.loads(found) if found else {}
        self._placeholders = Placeholders(self._secret(self._task), self._kept)
        self.unread = False

    async def keep(self) -> None:
        """Add what was made to the table. Raises Problem state_unavailable."""
        if not self._shared or self._task is None or self._placeholders is None:
            return
        made = self._placeholders.made
        if len(made) == len(self._kept):
            return
        data = await self._house.vault.merge(
            opened(self._house, self._task), _name(self._task), lambda old: _merged(old, made)
        )
        self._kept = made
        if len(json.loads(data)) != len(made):  # another call of this task was first: know its placeholders too
            self._placeholders = Placeholders(self._secret(self._task), json.loads(data))
            self._kept = self._placeholders.made

    def _secret(self, task: Task) -> bytes:
        return hmac.digest(opened(self._house, task), b"placeholder", hashlib.sha256)


def opened(house: House, task: Task) -> bytes:
    """Open the key that a task's placeholders need. Raises Problem task_not_open where it was erased."""
    try:
        return house.vault.unwrap(task.id, task.wrapped_key)
    except Erased as error:
        raise Problem("task_not_open", "the task's key was erased, and its placeholders with it") from error


def _name(task: Task) -> str:
    return f"{task.id}/placeholders"


def _merged(old: bytes | None, made: Mapping[str, str]) -> bytes:
    """Both tables in one; what stood there first stays: another host may have shown it already."""
    return json.dumps({**made, **(json.loads(old) if old else {})}, ensure_ascii=False).encode()
