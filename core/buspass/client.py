"""What an agent imports: start a task, use its token, keep a checkpoint, end it. httpx only, knows nothing of core.

    with task("returns", on_behalf_of={"token": customer}) as t:
        OpenAI(base_url=t.base_url, api_key=t.api_key)

Completed when the block ends, killed when it raises; `async with atask(…)` is the same for async code. The gateway is
at `BUSPASS_URL` (default http://127.0.0.1:8700); how the workload proves itself: `buspass.workload`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Self

import httpx

from buspass.answered import BuspassError, checked, reaching
from buspass.workload import TokenSource, token

EARLY: Final = 60.0
"""Seconds before a task token's end when it is renewed; of a short one its last quarter."""
SECONDS: Final = 60
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"


class Task:
    """A task that this process works on. Not for several threads at once while it renews.

    `document` is the task as it began, `id` its id; `base_url` is what an OpenAI client takes.
    """

    def __init__(self, url: str | None, source: TokenSource, terms: Mapping[str, Any]) -> None:
        address = url or os.environ.get("BUSPASS_URL") or "http://127.0.0.1:8700"
        self._url, self._source, self._terms = address.rstrip("/").removesuffix("/v1"), source, terms
        self._token, self._renew_at, self._etag, self._ended = "", 0.0, "", False
        self.document: Mapping[str, Any] = {}
        self.id = self.base_url = ""

    @property
    def api_key(self) -> str:
        """The task token, renewed when it is about to end. For a long-lived client pass `key` instead."""
        if time.monotonic() > self._renew_at:
            with reaching(self._url):
                self._renewed(httpx.post(**self._renewal()))
        return self._token

    def key(self) -> str:
        """Give the token: a callable for SDKs that take one, such as `OpenAI(api_key=t.key)`."""
        return self.api_key

    def _start(self) -> dict[str, Any]:
        proof = {"authorization": f"Bearer {token(self._source)}"}
        return {"method": "POST", "url": f"{self._url}/v1/tasks", "json": self._terms, "headers": proof}

    def _started(self, answer: httpx.Response) -> None:
        started = checked(answer).json()
        self.document, self.base_url = started["task"], str(started["base_url"])
        self.id = str(self.document["id"])
        self._good(started["token"], started["expires_in"])

    def _renewed(self, answer: httpx.Response) -> None:
        fresh = checked(answer).json()
        self._good(fresh["access_token"], fresh["expires_in"])

    def _good(self, key: str, seconds: float) -> None:
        self._token, self._renew_at = key, time.monotonic() + seconds - min(EARLY, seconds / 4)

    def _renewal(self) -> dict[str, Any]:
        form = {
            "grant_type": EXCHANGE,
            "subject_token": self._token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "actor_token": token(self._source),
            "actor_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
        return {"url": f"{self._url}/oauth2/token", "data": form, "timeout": 30}

    def _at(self, method: str, part: str, **more: Any) -> dict[str, Any]:
        return {"method": method, "url": f"{self._url}/v1/tasks/{self.id}/{part}", **more}

    def _saving(self, state: Any) -> dict[str, Any]:
        return self._at("PUT", "checkpoint", json=state, headers={"if-match": f'"{self._etag}"'} if self._etag else {})

    def _saved(self, answer: httpx.Response) -> None:
        self._etag = str(checked(answer).json()["etag"])

    def _restored(self, answer: httpx.Response) -> Any:
        if answer.status_code == 404:
            return None
        self._etag = checked(answer).headers["etag"].strip('"')
        return answer.json()


class SyncTask(Task):
    """A task for synchronous code."""

    def __enter__(self) -> Self:
        with reaching(self._url):
            self._started(httpx.request(**self._start(), timeout=SECONDS))
        self._client = httpx.Client(timeout=SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._ended:
                self.end("complete", "done")
            elif kind is not None and not self._ended:
                with suppress(BuspassError, httpx.HTTPError, LookupError):  # the agent's own error is what matters
                    self.end("kill", f"{kind.__name__} in the agent")
        finally:
            self._client.close()

    def save(self, state: Any) -> None:
        """Keep the agent's own state (JSON, 256 KB). Raises BuspassError: another worker has saved since."""
        self._saved(self._send(self._saving(state)))

    def restore(self) -> Any:
        """Give the state that was kept last, or None."""
        return self._restored(self._send(self._at("GET", "checkpoint")))

    def end(self, verb: str, reason: str = "") -> None:
        """Complete, suspend or kill the task: then the end of the block changes nothing more."""
        checked(self._send(self._at("POST", verb, json={"reason": reason})))
        self._ended = True

    def _send(self, request: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.api_key}", **request.pop("headers", {})}
        with reaching(self._url):
            return self._client.request(**request, headers=headers)


class AsyncTask(Task):
    """A task for asynchronous code; `api_key` renews synchronously, `fresh` does so without blocking."""

    async def __aenter__(self) -> Self:
        with reaching(self._url):
            async with httpx.AsyncClient(timeout=SECONDS) as client:
                self._started(await client.request(**self._start()))
        self._client = httpx.AsyncClient(timeout=SECONDS)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._ended:
                await self.end("complete", "done")
            elif kind is not None and not self._ended:
                with suppress(BuspassError, httpx.HTTPError, LookupError):
                    await self.end("kill", f"{kind.__name__} in the agent")
        finally:
            await self._client.aclose()

    async def fresh(self) -> str:
        """Give the token, renewed when it is about to end: for `AsyncOpenAI(api_key=t.fresh)`."""
        if time.monotonic() > self._renew_at:
            with reaching(self._url):
                self._renewed(await self._client.post(**self._renewal()))
        return self._token

    async def save(self, state: Any) -> None:
        """Keep the agent's own state, as SyncTask does."""
        self._saved(await self._send(self._saving(state)))

    async def restore(self) -> Any:
        """Give the state that was kept last, or None."""
        return self._restored(await self._send(self._at("GET", "checkpoint")))

    async def end(self, verb: str, reason: str = "") -> None:
        """Complete, suspend or kill the task: then the end of the block changes nothing more."""
        checked(await self._send(self._at("POST", verb, json={"reason": reason})))
        self._ended = True

    async def _send(self, request: dict[str, Any]) -> httpx.Response:
        headers = {"authorization": f"Bearer {await self.fresh()}", **request.pop("headers", {})}
        with reaching(self._url):
            return await self._client.request(**request, headers=headers)


def task(workflow: str, *, url: str | None = None, workload_token: TokenSource = None, **terms: Any) -> SyncTask:
    """Give a task, which `with` starts; `terms`: `on_behalf_of`, `metadata`, `budget`. Raises as `with` begins."""
    return SyncTask(url, workload_token, {"workflow": workflow, **terms})


def atask(workflow: str, *, url: str | None = None, workload_token: TokenSource = None, **terms: Any) -> AsyncTask:
    """Do what `task` does, for `async with`."""
    return AsyncTask(url, workload_token, {"workflow": workflow, **terms})
