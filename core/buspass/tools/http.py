"""The HTTP connector, without I/O: arguments become a request, an answer becomes a result, facts and an outcome.

What is known after a dispatch, and what may be said of the action (`outcome`):

    answer                          idempotent   not idempotent   why
    2xx, or one of `statuses`       succeeded    succeeded        also when the body is unusable: it was done
    4xx                             failed       failed           the service refused: surely not done
    3xx, 5xx, other                 failed       unknown          it may have been done before it failed
    NotSent                         failed       failed           surely not done, surely not billed
    TimedOut, Ambiguous             failed       unknown          it may have arrived

An idempotent tool may be called again, so a doubtful end is a plain failure; `unknown` is never repeated by itself.
An answer's body is handed on only as validated JSON: error pages and error texts never reach a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal
from urllib.parse import SplitResult, quote, urlencode, urlsplit, urlunsplit

from buspass.config.settings import Tool
from buspass.errors import Problem
from buspass.jsontext import written
from buspass.model import UNLIMITED
from buspass.ports.outbound import Ambiguous, NotSent, Request, Response, TimedOut, TooLarge
from buspass.tools.schema import compiled, parse_json, pointer

type Answer = Response | NotSent | Ambiguous
type Outcome = Literal["succeeded", "failed", "unknown"]

FACT_BYTES: Final = 1024
QUERY_METHODS: Final = frozenset({"GET", "HEAD", "DELETE"})
_UP: Final = frozenset({".", ".."})
_SLASHES: Final = r"[/\\]"
_PLACEHOLDER: Final = r"\{([^{}]+)\}"


def request(tool: Tool, arguments: Mapping[str, Any], *, headers: Mapping[str, str], deadline_s: float) -> Request:
    """The one request of a call, with `deadline_s` seconds left for it.

    `{name}` in the URL's path takes that argument as one segment; the rest is the query for GET, HEAD and DELETE
    (arrays repeat, null is left out), else a JSON object. Raises `invalid_arguments`, `deadline_exceeded`.
    """
    if deadline_s <= 0:
        raise Problem("deadline_exceeded", f"no time is left to call tool {tool.name!r}")
    parts, in_path, url = _template(tool.url)
    path, rest = parts.path, arguments
    if in_path:
        path = re.sub(_PLACEHOLDER, lambda found: _segment(found[1], arguments), parts.path)
        rest = {name: value for name, value in arguments.items() if name not in in_path}
    sent = {"Accept": "application/json", **headers}
    query, body = parts.query, b""
    if tool.method in QUERY_METHODS:
        pairs = [(name, text) for name, value in rest.items() for text in _texts(name, value)]
        query = "&".join(filter(None, (query, urlencode(pairs, quote_via=quote))))
    else:
        sent["Content-Type"] = "application/json"
        body = written(rest)
    if in_path or query is not parts.query:
        url = urlunsplit((parts.scheme, parts.netloc, path, query, ""))
    return Request(
        method=tool.method,
        url=url,
        headers=sent,
        body=body,
        timeout=min(tool.timeout, deadline_s),
        limit=tool.max_bytes,
    )


@lru_cache(maxsize=1024)
def _template(url: str) -> tuple[SplitResult, frozenset[str], str]:
    """A tool's URL in parts, the arguments that its path takes, and what it is where nothing is put in."""
    parts = urlsplit(url)
    return parts, frozenset(re.findall(_PLACEHOLDER, parts.path)), urlunsplit(parts._replace(fragment=""))


def _misfit(name: str, message: str) -> Problem:
    row = {"path": pointer([name]), "message": message}
    return Problem("invalid_arguments", f"argument {name!r} {message}", errors=[row])


def _segment(name: str, arguments: Mapping[str, Any]) -> str:
    text = _text(name, arguments.get(name))
    if not text or not _UP.isdisjoint(re.split(_SLASHES, text)):
        # A client or server between would resolve these to another path than the one that was granted; many a server
        # decodes a slash before it does.
        raise _misfit(name, "must not be empty, nor hold '.' or '..' between slashes: it is a segment of a path")
    return quote(text, safe="")


def _texts(name: str, value: Any) -> list[str]:
    if value is None:
        return []
    return [_text(name, item) for item in value] if isinstance(value, list) else [_text(name, value)]


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise _misfit(name, "must be a string, a number or a boolean: it becomes part of a URL")


def result(tool: Tool, response: Response) -> Any:
    """The parsed and validated JSON of an answer; None for an empty one, where the schema lets it be null.

    Raises `upstream_error` with `upstream: {status, kind}`, kind one of error_status, error_page, not_json, empty,
    too_large, schema; of the body it tells nothing but, for `schema`, the declared paths that did not fit.
    """
    status = response.status
    if not (_success(status) or status in tool.statuses):
        doubt = " It may still have taken effect: do not repeat it." if _doubtful(tool, status) else ""
        if _page(response):
            raise _upstream(tool, status, "error_page", f"answered with an error page (status {status}).{doubt}")
        raise _upstream(tool, status, "error_status", f"answered with status {status}.{doubt}")
    if len(response.body) > tool.max_bytes:
        raise _upstream(tool, status, "too_large", f"answered with more than {tool.max_bytes} bytes.")
    if not response.body.strip():
        return _nothing(tool, status)
    value = _parsed(tool, response)
    rows = compiled(tool.output).violations(value) if tool.output is not None else []
    if rows:
        said = f"answered, but not as its schema says at {rows[0]['path'] or '/'}."
        raise _upstream(tool, status, "schema", said, errors=rows)
    return value


def _nothing(tool: Tool, status: int) -> None:
    if tool.output is not None and compiled(tool.output).violations(None):
        raise _upstream(tool, status, "empty", "answered with nothing, where its schema wants a result.")


def _parsed(tool: Tool, response: Response) -> Any:
    try:
        return parse_json(response.body, limit=tool.max_bytes)
    except Problem:
        kind, what = ("error_page", "a web page") if _page(response) else ("not_json", "something that is not JSON")
        raise _upstream(tool, response.status, kind, f"answered with {what} instead of a result.") from None


def _page(response: Response) -> bool:
    """Say whether this is a page for people, whatever its status: a model would argue with it."""
    return "html" in response.headers.get("content-type", "").lower() or response.body.lstrip()[:1] == b"<"


def _upstream(
    tool: Tool, status: int | None, kind: str, said: str, *, errors: Sequence[Mapping[str, Any]] = ()
) -> Problem:
    detail = f"the service behind tool {tool.name!r} {said}"
    upstream = {"kind": kind} if status is None else {"status": status, "kind": kind}
    return Problem("upstream_error", detail, errors=errors, upstream=upstream)


def failure(tool: Tool, error: NotSent | Ambiguous) -> Problem:
    """What the client is told when no answer came: `upstream_timeout`, else `upstream_error` without a status."""
    doubt = " It may still have taken effect: do not repeat it." if outcome(tool, error) == "unknown" else ""
    if isinstance(error, TimedOut):
        said = f"the service behind tool {tool.name!r} took too long.{doubt}"
        return Problem("upstream_timeout", said, upstream={"kind": "timeout"})
    if isinstance(error, TooLarge):
        return _upstream(tool, None, "too_large", f"answered with more than {tool.max_bytes} bytes.{doubt}")
    kind = "unreachable" if isinstance(error, NotSent) else "broken"
    said = "could not be reached." if isinstance(error, NotSent) else f"broke off its answer.{doubt}"
    return Problem("upstream_error", f"the service behind tool {tool.name!r} {said}", upstream={"kind": kind})


def outcome(tool: Tool, answer: Answer) -> Outcome:
    """What may be said of the action, by this module's table."""
    if isinstance(answer, NotSent):
        return "failed"
    if isinstance(answer, Ambiguous):
        return "failed" if tool.idempotent else "unknown"
    if _success(answer.status) or answer.status in tool.statuses:
        return "succeeded"
    return "unknown" if _doubtful(tool, answer.status) else "failed"


def _success(status: int) -> bool:
    return 200 <= status < 300


def _doubtful(tool: Tool, status: int) -> bool:
    return not tool.idempotent and not 400 <= status < 500


def facts(tool: Tool, value: Any) -> dict[str, str | int | bool]:
    """The facts that `keep` names (RFC 6901 pointers) in a validated result; one that is missing or null is absent.

    Strings, booleans and whole numbers within ±(2⁵³-1), which every store keeps exactly, 1 KB of JSON in all.
    Raises `upstream_error` for anything else: a fact half kept would decide wrongly later.
    """
    kept: dict[str, str | int | bool] = {}
    for name, where in tool.keep.items():
        found = _resolve(value, where)
        if found is None:
            continue
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if not isinstance(found, str | int) or (isinstance(found, int) and abs(found) > UNLIMITED):
            said = f"gave no string, boolean or whole number for the fact {name!r}."
            raise _upstream(tool, None, "schema", said, errors=[{"path": where, "message": "can't be kept"}])
        kept[name] = found
    if kept and len(written(kept)) > FACT_BYTES:
        raise _upstream(tool, None, "too_large", f"gave more than {FACT_BYTES} bytes of facts to keep.")
    return kept


def _resolve(value: Any, where: str) -> Any:
    """What a JSON pointer (RFC 6901) points at, or None."""
    for part in where.split("/")[1:]:
        token = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(token)
        elif isinstance(value, list) and re.fullmatch(r"0|[1-9][0-9]{0,8}", token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value
