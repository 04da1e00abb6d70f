"""Which authorities verify the servers that a Lambda function calls: the system's bundle, read once.

Where the environment names none, rustls reads the bundle and then every file of the system's certificate folders, which
hold the same certificates again: some 10 ms of CPU for each client that is made, and with the bundle alone some 2.
Owns that choice. An image with authorities outside of its bundle names them: SSL_CERT_FILE or SSL_CERT_DIR.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Final

NAMES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
BUNDLES: Final = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt")
"""Amazon Linux's, Debian's: each system writes it of all that it trusts."""


def choose(environ: MutableMapping[str, str], bundles: Sequence[str] = BUNDLES) -> None:
    """Name the system's bundle, if there is one and nothing is named. For a process that has one thread as yet."""
    if any(environ.get(name) for name in NAMES):
        return
    found = next((bundle for bundle in bundles if Path(bundle).is_file()), None)
    if found is not None:
        environ[NAMES[0]] = found
