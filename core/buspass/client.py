"""What an agent imports: start a task, use its token, keep a checkpoint, end it. httpx only, knows nothing of core.

    with task("returns", on_behalf_of={"token": customer}) as t:
        OpenAI(base_url=t.base_url, api_key=t.api_key)

The task is completed when the block ends, and killed when it raises. `async with atask(…)` is the same for async code.
The gateway is at `BUSPASS_URL` (default http://127.0.0.1:8700); how the workload proves itself: `buspass.workload`.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import httpx

from buspass.workload import TokenSource
from buspass.workload import token as prove

EARLY: Final = 60.0
"""Seconds before a task token's end when it is renewed."""
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"


class BuspassError(Exception):
    """The gateway refused. `code`, `status` and `detail` are the problem's (docs/problems.md)."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, self.code, self.detail = status, code, detail


class Task:
    """A task that this process works on. Not for several threads at once while it renews."""

    def __init__(self, url: str, source: TokenSource, client: httpx.Client | httpx.AsyncClient) -> None:
        self._url, self._source, self._client = url, source, client
        self._token, self._base, self._until, self._etag = "", "", 0.0, ""
        self.document: Mapping[str, Any] = {}

    @property
    def id(self) -> str:
        """The task's id."""
        return str(self.document["id"])

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as base_url."""
        return self._base

    @property
    def api_key(self) -> str:
        """The task token, renewed when it is about to end. For a long-lived client pass `key` instead."""
        if time.monotonic() > self._until - EARLY:
            self._renewed(httpx.post(**self._renewal()))
        return self._token

    def key(self) -> str:
        """Give the token: a callable for SDKs that take one, such as `OpenAI(api_key=t.key)`."""
        return self.api_key

    @property
    def headers(self) -> dict[str, str]:
        """Headers for requests of your own."""
        return {"authorization": f"Bearer {self.api_key}"}

    # The requests, for both kinds of client.

    def _start(self, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {prove(self._source)}"}
        return {"method": "POST", "url": f"{self._url}/v1/tasks", "json": body, "headers": headers}

    def _started(self, answer: httpx.Response) -> None:
        started = _checked(answer).json()
        self.document, self._base = started["task"], started["base_url"]
        self._token, self._until = started["token"], time.monotonic() + started["expires_in"]

    def _renewal(self) -> dict[str, Any]:
        form = {
            "grant_type": EXCHANGE,
            "subject_token": self._token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "actor_token": prove(self._source),
            "actor_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
        return {"url": f"{self._url}/oauth2/token", "data": form, "timeout": 30}

    def _renewed(self, answer: httpx.Response) -> None:
        fresh = _checked(answer).json()
        self._token, self._until = fresh["access_token"], time.monotonic() + fresh["expires_in"]

    def _at(self, method: str, part: str, **more: Any) -> dict[str, Any]:
        headers = {**self.headers, **more.pop("headers", {})}
        return {"method": method, "url": f"{self._url}/v1/tasks/{self.id}/{part}", "headers": headers, **more}

    def _saving(self, state: Any) -> dict[str, Any]:
        match = {"if-match": f'"{self._etag}"'} if self._etag else {}
        return self._at("PUT", "checkpoint", json=state, headers=match)

    def _saved(self, answer: httpx.Response) -> None:
        self._etag = str(_checked(answer).json()["etag"])

    def _restored(self, answer: httpx.Response) -> Any:
        if answer.status_code == 404:
            return None
        self._etag = _checked(answer).headers["etag"].strip('"')
        return answer.json()


class SyncTask(Task):
    """A task for synchronous code."""

    _client: httpx.Client

    def save(self, state: Any) -> None:
        """Keep the agent's own state (JSON, 256 KB). Raises BuspassError: another worker has saved since."""
        self._saved(self._client.request(**self._saving(state)))

    def restore(self) -> Any:
        """Give the state that was kept last, or None."""
        return self._restored(self._client.request(**self._at("GET", "checkpoint")))

    def end(self, verb: str, reason: str = "") -> None:
        """Complete, suspend or kill the task. Repeating it does no harm."""
        _checked(self._client.request(**self._at("POST", verb, json={"reason": reason})))


class AsyncTask(Task):
    """A task for asynchronous code; `api_key` renews synchronously, `fresh` does so without blocking."""

    _client: httpx.AsyncClient

    async def fresh(self) -> str:
        """Give the token, renewed when it is about to end: for `AsyncOpenAI(api_key=t.fresh)`."""
        if time.monotonic() > self._until - EARLY:
            self._renewed(await self._client.post(**self._renewal()))
        return self._token

    async def save(self, state: Any) -> None:
        """Keep the agent's own state."""
        self._saved(await self._client.request(**self._saving(state)))

    async def restore(self) -> Any:
        """Give the state that was kept last, or None."""
        return self._restored(await self._client.request(**self._at("GET", "checkpoint")))

    async def end(self, verb: str, reason: str = "") -> None:
        """Complete, suspend or kill the task."""
        _checked(await self._client.request(**self._at("POST", verb, json={"reason": reason})))


@contextmanager
def task(
    workflow: str, *, url: str | None = None, workload_token: TokenSource = None, **terms: Any
) -> Iterator[SyncTask]:
    """Start a task of `workflow`; `terms` are `on_behalf_of`, `metadata` and `budget`. Raises BuspassError."""
    with httpx.Client(timeout=60) as client:
        started = SyncTask(_address(url), workload_token, client)
        started._started(client.request(**started._start({"workflow": workflow, **terms})))  # noqa: SLF001 - its maker
        try:
            yield started
        except BaseException as error:
            started.end("kill", f"{type(error).__name__} in the agent")
            raise
        started.end("complete", "done")


@asynccontextmanager
async def atask(
    workflow: str, *, url: str | None = None, workload_token: TokenSource = None, **terms: Any
) -> AsyncIterator[AsyncTask]:
    """Do what `task` does, for asynchronous code."""
    async with httpx.AsyncClient(timeout=60) as client:
        started = AsyncTask(_address(url), workload_token, client)
        started._started(await client.request(**started._start({"workflow": workflow, **terms})))  # noqa: SLF001
        try:
            yield started
        except BaseException as error:
            await started.end("kill", f"{type(error).__name__} in the agent")
            raise
        await started.end("complete", "done")


def _address(url: str | None) -> str:
    return (url or os.environ.get("BUSPASS_URL", "http://127.0.0.1:8700")).rstrip("/").removesuffix("/v1")


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
        raise BuspassError(answer.status_code, problem["code"], problem["detail"])
    except (ValueError, KeyError, TypeError):
        raise BuspassError(answer.status_code, "unknown", answer.text[:200]) from None
