"""This machine, as the verbs know it: where data lies, where its gateway is, and which addresses are its own.

Owns both defaults. Refuses to load what asks a gateway: that costs a tenth of a second.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from buspass.cli.stop import USAGE, Stop

DEFAULT_DATA: Final = "~/.local/share/buspass"
DEFAULT_URL: Final = "http://127.0.0.1:8700"


def data_directory() -> Path:
    """BUSPASS_DATA as an absolute path; it need not exist."""
    return Path(os.environ.get("BUSPASS_DATA") or DEFAULT_DATA).expanduser().absolute()


def gateway_url() -> str:
    """BUSPASS_URL as verbs ask it, without the /v1 that SDKs want behind it; empty where it is not set. Raises Stop."""
    said = os.environ.get("BUSPASS_URL") or ""
    if said:
        address(said)
    return said.rstrip("/").removesuffix("/v1")


def address(said: str) -> SplitResult:
    """Give the parts of BUSPASS_URL. Raises Stop for what is no gateway's address."""
    if "@" in said:
        raise Stop("BUSPASS_URL names a user, which is no way to prove oneself; allowed: http://HOST[:PORT]", USAGE)
    try:
        parts = urlsplit(said)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # brackets that don't close, a port that is none
        fits = False
    if not fits or parts.query or parts.fragment or " " in said or not said.isprintable():
        raise Stop(f"BUSPASS_URL is {said!r}; allowed: http://HOST[:PORT] or https://…", USAGE)
    return parts


def sendable(token: str, name: str) -> str:
    """Give a token back. Raises Stop, with its name alone, where no header can carry it."""
    if not (token.isascii() and token.isprintable()):
        raise Stop(f"{name} has characters that no token has: copy it again, the token alone", USAGE)
    return token


def is_loopback(host: str) -> bool:
    """Tell whether a URL's host or a bind address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
