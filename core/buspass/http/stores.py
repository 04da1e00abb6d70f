"""The stores of a trust domain, as one host works on them: its own, and those of hosts that override `state`.

Owns that each is opened once, on its first use, and that this host's public key lies in it, so that what it signs is
believed there. A store that can't be opened now is `state_unavailable`. Refuses to know what is done there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from buspass.calls.house import House
from buspass.config.settings import Host
from buspass.errors import ConfigError, Problem
from buspass.identity.keyring import Keyring
from buspass.ports.state import State

type Open = Callable[[str], Awaitable[State]]
type Build = Callable[[State, Keyring, str], House]


class Stores:
    """The houses of one host, by the store that they work on."""

    def __init__(self, hosts: Mapping[str, Host], opening: Open, keyring: Callable[[State], Keyring]) -> None:
        self._hosts = hosts
        self._opening = opening
        self._keyring = keyring
        self._build: Build | None = None
        self._houses: dict[str, House] = {}
        self._one = asyncio.Lock()

    def begin(self, home: str, state: State, keyring: Keyring, build: Build) -> House:
        """Build the house on this host's own store."""
        self._build = build
        house = self._houses[self._hosts[home].state] = build(state, keyring, home)
        return house

    async def beside(self, name: str) -> House:
        """Give the house on the store of the host `name`. Raises Problem denied, state_unavailable."""
        if (host := self._hosts.get(name)) is None:
            raise Problem("denied", f"host {name!r} is not configured here any more", reasons=["host"])
        if (found := self._houses.get(host.state)) is not None:
            return found
        async with self._one:
            if (found := self._houses.get(host.state)) is not None:
                return found
            try:
                state = await self._opening(host.state)
            except (ConfigError, OSError) as error:
                detail = f"the store of host {name!r} can't be opened from here; retry later"
                raise Problem("state_unavailable", detail, retry_after=5) from error
            keyring = self._keyring(state)
            try:
                await keyring.publish()
            except BaseException:
                await state.close()
                raise
            assert self._build is not None, "a host begins with its own store"
            house = self._houses[host.state] = self._build(state, keyring, name)
            return house

    async def close(self) -> None:
        """Let go of every store, this host's own too."""
        for house in self._houses.values():
            await house.state.close()
