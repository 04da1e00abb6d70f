"""The handlers that a call does not need, by section: each section is loaded where it is first asked for.

So a cold start's first call pays for its own way alone. Owns the laziness. Refuses to know paths.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from buspass.calls.house import House
from buspass.http.asgi import Request
from buspass.http.exchange import Handler

if TYPE_CHECKING:
    from buspass.lifecycle import Lifecycle
    from buspass.reading import Reading

SECTIONS: Final = ("Tasks", "Keys", "Stops", "Reports", "Peers", "Operation")


class Sections:
    """One host's."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._loaded: dict[str, Any] = {}

    def handler(self, section: str, name: str) -> Handler:
        """Give a handler that loads its section when it is called."""

        def run(request: Request) -> Any:
            return getattr(self.of(section), name)(request)

        return run

    def of(self, section: str) -> Any:
        """Give a section's handlers."""
        if section not in self._loaded:
            self._loaded[section] = self._load(section)
        return self._loaded[section]

    def warm(self) -> None:
        """Load them all."""
        for section in SECTIONS:
            self.of(section)

    @cached_property
    def lifecycle(self) -> Lifecycle:
        from buspass.lifecycle import Lifecycle  # noqa: PLC0415 - see the module

        return Lifecycle(self._house)

    @cached_property
    def reading(self) -> Reading:
        from buspass.reading import Reading  # noqa: PLC0415 - see the module

        return Reading(self._house, self.lifecycle)

    def _load(self, section: str) -> Any:
        house = self._house
        match section:
            case "Tasks":
                from buspass.http.tasks import TaskRoutes  # noqa: PLC0415 - see the module

                return TaskRoutes(house, self.lifecycle, self.reading)
            case "Keys":
                from buspass.http.keys import KeyRoutes  # noqa: PLC0415 - see the module

                return KeyRoutes(house)
            case "Stops":
                from buspass.http.stops import StopRoutes  # noqa: PLC0415 - see the module

                return StopRoutes(house)
            case "Reports":
                from buspass.http.reports import ReportRoutes  # noqa: PLC0415 - see the module

                return ReportRoutes(house)
            case "Peers":
                from buspass.http.peers import PeerRoutes  # noqa: PLC0415 - see the module

                return PeerRoutes(house)
            case _:
                from buspass.http.operation import OperationRoutes  # noqa: PLC0415 - see the module

                return OperationRoutes(house)
