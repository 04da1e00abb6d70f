"""How a verb asks a running gateway: BUSPASS_URL, the operator's bearer, one request at a time.

Owns what a failure to ask is called. Refuses to open a store, and to show a token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from buspass.cli.machine import DEFAULT_URL, data_directory, gateway_url, is_loopback, sendable
from buspass.cli.stop import FAILED, USAGE, Stop

SECONDS: Final = 30
_TASK: Final = re.compile(r"t_[A-Za-z0-9]{1,62}")


def task_path(task: str, *more: str) -> str:
    """Give the path of a task's resource. Raises Stop for what can be no task's id."""
    if not _TASK.fullmatch(task):
        raise Stop(f"{task!r} is no task's id: they look like t_mzxw6ytb…; `buspass task list` shows them", USAGE)
    return "/".join(("/v1/tasks", task, *more))


class Connection:
    """The gateway at BUSPASS_URL, as its operator."""

    def __init__(self) -> None:
        self.url = gateway_url() or DEFAULT_URL
        self._local = is_loopback(urlsplit(self.url).hostname or "")

    def get(self, path: str, query: Mapping[str, str | int] | None = None) -> Any:
        """Ask for a document. Raises Stop."""
        return self._ask("GET", path, query=query)

    def text(self, path: str, query: Mapping[str, str | int] | None = None) -> str:
        """Ask for something other than JSON. Raises Stop."""
        answer = self._send("GET", path, query=query)
        if not answer.is_success:
            self._read(answer)
        return answer.text

    def post(self, path: str, document: Mapping[str, Any]) -> Any:
        """Send a document. Raises Stop."""
        return self._ask("POST", path, document=document)

    def delete(self, path: str, query: Mapping[str, str | int]) -> Any:
        """End what stands there. Raises Stop."""
        return self._ask("DELETE", path, query=query)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> Any:
        return self._read(self._send(method, path, query=query, document=document))

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        # a proxy of the environment is for other machines: this one's gateway is not behind it
        with httpx.Client(base_url=self.url, timeout=SECONDS, trust_env=not self._local) as client:
            try:
                headers = {"Authorization": f"Bearer {self._bearer(client)}"}
                return client.request(method, path, params=query, json=document, headers=headers)
            except httpx.TimeoutException:
                raise Stop(f"the gateway at {self.url} did not answer within {SECONDS} s") from None
            except httpx.TransportError as error:
                raise self._nobody(error) from None

    def _bearer(self, client: httpx.Client) -> str:
        if token := os.environ.get("BUSPASS_TOKEN", "").strip():
            return sendable(token, "BUSPASS_TOKEN")
        if not self._local:
            raise Stop(
                f"BUSPASS_TOKEN is not set: {self.url} is another machine's gateway, where an operator needs a token "
                "of an identity that its operators: name; the operator key here is for the gateway here",
                USAGE,
            )
        path = data_directory() / "operator.key"
        try:
            return sendable(path.read_text(encoding="ascii").strip(), str(path))
        except (OSError, UnicodeDecodeError) as error:
            client.get("/health/live")  # with nobody there, that is what to say first
            why = getattr(error, "strerror", None) or "it is no text"
            raise Stop(
                f"operator key {path}: {why}; set BUSPASS_DATA to the data directory of the gateway at {self.url}, "
                "or BUSPASS_TOKEN to an operator's token",
                USAGE,
            ) from None

    def _nobody(self, error: httpx.TransportError) -> Stop:
        if self._local:
            return Stop(f"no gateway answers at {self.url}: start one with `buspass up`, or set BUSPASS_URL")
        return Stop(f"no gateway answers at {self.url} ({type(error).__name__}): is BUSPASS_URL right?")

    def _read(self, answer: httpx.Response) -> Any:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.is_success and document is not None:
            return document
        if isinstance(document, dict) and "code" in document:
            raise Stop(said(document) + advice(document), FAILED)
        raise Stop(f"{self.url} answered {answer.status_code} and no JSON of ours: is a Buspass gateway there?")


def said(problem: Mapping[str, Any]) -> str:
    """Give a problem as people read it: `code: detail`, and a line for each thing to mend."""
    lines = [f"{problem['code']}: {problem.get('detail') or problem.get('title', '')}"]
    for row in problem.get("errors") or ():
        allowed = row.get("allowed")
        line = f"{row.get('path', '')}: {row.get('message', '')}"
        if allowed is not None:
            line += f"; allowed: {_listed(allowed)}"
        if line not in lines[0]:
            lines.append(f"  {line}")
    return "\n".join(lines)


def advice(problem: Mapping[str, Any]) -> str:
    """Say what an operator does about it."""
    if problem["code"] == "not_found" and "task" in str(problem.get("detail", "")):
        return "\n  `buspass task list` shows the tasks"
    if problem["code"] == "unauthenticated":
        return "\n  set BUSPASS_DATA to the gateway's data directory, or BUSPASS_TOKEN to an operator's token"
    return ""


def _listed(allowed: Any) -> str:
    return ", ".join(str(each) for each in allowed) if isinstance(allowed, list) else str(allowed)
