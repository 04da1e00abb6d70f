"""Functions HTTP requests and ASGI: one `HttpRequest` in, one scope out; the application's answer to `HttpResponse`.

Owns what the Functions host does to a request on its way (repeated headers joined, the address it came from in
`x-forwarded-for`) and to an answer (one value per header, but for cookies). Refuses to know when the application
started and what it does.
Source: https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from azure.functions import HttpRequest, HttpResponse

from buspass.http import buffered
from buspass.http.buffered import Asgi


def to_scope(request: HttpRequest) -> dict[str, Any]:
    """An ASGI `http` scope. The path keeps the encoding that it has in the URL."""
    url = urlsplit(request.url)
    path = url.path or "/"
    headers = [(name.lower(), value) for name, value in request.headers.items()]
    secure = url.scheme == "https"
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method.upper(),
        "scheme": url.scheme or "https",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path.encode("utf-8"),
        "query_string": url.query.encode("utf-8"),
        "root_path": "",
        "headers": [(name.encode("latin-1"), _header_value(value)) for name, value in headers],
        "client": _client(dict(headers).get("x-forwarded-for", "")),
        "server": (url.hostname or "", url.port or (443 if secure else 80)),
        "extensions": {},
    }


def _header_value(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8")


def _client(forwarded: str) -> tuple[str, int] | None:
    """The last entry is the platform's own; those before it are what the client wrote."""
    address = forwarded.rpartition(",")[2].strip()
    if not address:
        return None
    if address.count(":") == 1 or address.startswith("["):
        host, _, port = address.rpartition(":") if not address.endswith("]") else (address, "", "")
        return host.strip("[]"), int(port) if port.isdecimal() else 0
    return address, 0


async def call(application: Asgi, request: HttpRequest) -> HttpResponse:
    """Run the application on a request that is whole, and wait for the whole answer."""
    answer = await buffered.call(application, to_scope(request), request.get_body())
    return to_response(answer.status, answer.headers, answer.body)


def to_response(status: int, headers: Any, body: bytes) -> HttpResponse:
    """An answer from raw header pairs and the body in bytes.

    The Functions host carries one value per header, so repeated ones are joined (RFC 9110 §5.3), and cookies on a
    list of their own. Where there is no content type it says text/plain.
    """
    single: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "set-cookie":
            cookies.append(value)
        else:
            single[name] = f"{single[name]}, {value}" if name in single else value
    response = HttpResponse(body, status_code=status, headers=single)
    for cookie in cookies:
        response.headers.add("Set-Cookie", cookie)
    return response
