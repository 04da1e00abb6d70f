"""What a client makes of the gateway's answer, or of none. httpx only, knows nothing of core."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx


class BuspassError(Exception):
    """The gateway refused. `code`, `status` and `detail` are the problem's (docs/problems.md).

    Where no gateway answers, `code` is `unreachable` and `status` 0.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, self.code, self.detail = status, code, detail


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Say that nobody is at the gateway's address. Raises BuspassError; what breaks off later stays httpx's."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        what = f"no gateway answers at {url} ({error}): start one with `buspass up`, or set BUSPASS_URL to where it is"
        raise BuspassError(0, "unreachable", what) from error


def checked(answer: httpx.Response) -> httpx.Response:
    """Give the answer. Raises BuspassError where it is a refusal."""
    if answer.is_success:
        return answer
    try:
        problem = answer.json()
        raise BuspassError(answer.status_code, problem["code"], problem["detail"])
    except (ValueError, KeyError, TypeError):
        raise BuspassError(answer.status_code, "unknown", answer.text[:200]) from None
