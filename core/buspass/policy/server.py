"""An OPA server as the engine: asked over HTTP, believed only where it serves the modules of this configuration.

Owns OPA's Data and Policy APIs (its docs, "REST API"), and that whatever goes wrong is no permission.
What a question reads, and so what may be shown and remembered, is known from the modules under `policy.path`: a server
with others would be asked with half an input. So it is asked which ones it serves, at the first question, every
`FRESH` seconds and after each failure. Refuses to know what an answer means.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from buspass.policy import scan
from buspass.ports.clock import Clock
from buspass.ports.outbound import Ambiguous, NotSent, Outbound, Request, TimedOut, TooLarge
from buspass.ports.policy import PolicyServerUnavailable, PolicyUnavailable

TIMEOUT: Final = 2.0
"""Seconds that one request may take: a decision takes about one millisecond."""
FRESH: Final = 10.0
"""Seconds for which the served modules are taken to be those that were seen."""
ANSWER: Final = 1_000_000
MODULES: Final = 20_000_000
"""Bytes: OPA lists a module with its syntax tree, which is many times as long."""


class OpaServer:
    """Rego v1 modules by file name, evaluated at `url`. Each question is `POST /v1/data/buspass/QUESTION`.

    Modules are expected to have passed `lint`. For one event loop.
    """

    def __init__(self, modules: Mapping[str, str], url: str, outbound: Outbound, clock: Clock) -> None:
        self.questions = scan.questions(modules)
        self.volatile = scan.unsteady(modules)
        self._packages = [scan.package(source).split(".") for source in modules.values()]
        self._ours = Counter(modules.values())
        self._url = url
        self._outbound = outbound
        self._clock = clock
        self._until = 0.0
        self._looking: asyncio.Future[None] | None = None

    async def ask(self, question: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer: an object with at least `deny`, a list. Raises `PolicyUnavailable` for everything else."""
        if question not in self.questions:
            raise PolicyUnavailable(f"no module answers {question!r}")
        try:
            body = json.dumps({"input": document}, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise PolicyUnavailable("the input can't be put to the server") from error
        await self.ready()
        # A built-in that fails is an error, and not merely undefined: its denial must not disappear.
        path = f"/v1/data/buspass/{question}?strict-builtin-errors=true"
        answer = (await self._sent("POST", path, body, ANSWER)).get("result")
        if not isinstance(answer, dict) or not isinstance(answer.get("deny"), list):
            said = "has no answer to" if answer is None else "gives no set of reasons in deny for"
            raise self._failed(f"the OPA server {said} data.buspass.{question}")
        return answer

    async def ready(self) -> None:
        """See that the server answers, and serves these modules. Raises `PolicyServerUnavailable`."""
        if self._clock.monotonic() < self._until:
            return
        if self._looking is None:  # one look for all who ask meanwhile, whoever of them gives up
            self._looking = asyncio.ensure_future(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, look: asyncio.Future[None]) -> None:
        self._looking = None
        if not look.cancelled():
            look.exception()  # was heard, even if everybody who waited has left

    async def _look(self) -> None:
        listed = (await self._sent("GET", "/v1/policies", b"", MODULES)).get("result")
        try:
            served = Counter(row["raw"] for row in listed or () if self._counts(row["ast"]["package"]["path"]))
        except (TypeError, KeyError) as error:
            raise self._failed("the OPA server does not list its modules") from error
        if served != self._ours:
            missing, more = self._ours - served, served - self._ours
            counted = f"{missing.total()} missing or altered, {more.total()} others in its packages"
            raise self._failed(f"the OPA server serves other modules than policy.path holds ({counted})")
        self._until = self._clock.monotonic() + FRESH

    def _counts(self, path: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a served module may have a say: `data` and one of our packages, or one within them."""
        names = [part["value"] for part in path[1:]]
        return any(names[: len(package)] == package for package in self._packages)

    async def _sent(self, method: str, path: str, body: bytes, limit: int) -> Mapping[str, Any]:
        request = Request(
            method=method,
            url=self._url + path,
            headers={"content-type": "application/json"} if body else {},
            body=body,
            timeout=TIMEOUT,
            limit=limit,
        )
        try:
            answer = await self._once_more(request)
        except NotSent as error:
            raise self._failed("the OPA server can't be reached") from error
        except TimedOut as error:
            raise self._failed(f"the OPA server gave no answer within {TIMEOUT:g} s") from error
        except Ambiguous as error:
            raise self._failed("the OPA server's answer was cut off") from error
        if answer.status != 200:
            raise self._failed(f"the OPA server answered {answer.status}")
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._failed("the OPA server answered something that is no JSON") from error
        if not isinstance(found, dict):
            raise self._failed("the OPA server answered something that is no object")
        return found

    async def _once_more(self, request: Request) -> Any:
        """Send, and again where the connection broke: it was an old one. Asking twice changes nothing."""
        try:
            return await self._outbound.send(request)
        except (TimedOut, TooLarge):
            raise
        except Ambiguous:
            return await self._outbound.send(request)

    def _failed(self, said: str) -> PolicyServerUnavailable:
        self._until = 0.0
        return PolicyServerUnavailable(said)
