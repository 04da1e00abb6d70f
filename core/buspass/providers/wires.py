"""The wire formats by the name that a provider's `api` has. Knows of each only what all of them can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from buspass.config.settings import Provider, Target
from buspass.model import Answer, Ask, Failure
from buspass.ports.outbound import Request, Response
from buspass.providers import anthropic, openai
from buspass.providers.bounds import Bound
from buspass.providers.decoding import StreamDecoder


class Wire(Protocol):
    """A provider's wire format, for asks of every surface; each module's docstrings say how."""

    def request(
        self,
        provider: Provider,
        target: Target,
        ask: Ask,
        most: Bound,
        credential: str | None,
        timeout: float,
        *,
        idle: float = 60.0,
    ) -> Request: ...

    def answer(self, response: Response, ask: Ask | None = None) -> Answer: ...

    def refused(self, response: Response) -> Failure: ...

    def decoder(self, ask: Ask) -> StreamDecoder: ...


WIRES: Final[Mapping[str, Wire]] = {openai.API: openai, anthropic.API: anthropic}
