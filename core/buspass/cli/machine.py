"""This machine, as the verbs know it: where data lies, and which addresses are its own.

Owns both defaults. Refuses to load what asks a gateway: that costs a tenth of a second.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Final

DEFAULT_DATA: Final = "~/.local/share/buspass"
DEFAULT_URL: Final = "http://127.0.0.1:8700"


def data_directory() -> Path:
    """BUSPASS_DATA as an absolute path; it need not exist."""
    return Path(os.environ.get("BUSPASS_DATA") or DEFAULT_DATA).expanduser().absolute()


def is_loopback(host: str) -> bool:
    """Tell whether a URL's host or a bind address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
