"""The configuration and policy of a bundle: judged and compiled by `buspass check`, and which locks its stores ask for.

Owns the bundle's `buspass.json`. Refuses to know what a configuration means.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from buspass.config import compiled
from buspass_bundle.hosts import STORES, BundleError, Host

NAME: Final = "buspass.json"


def compile_into(folder: Path, source: Path, bind: str) -> None:
    """Write `folder`/buspass.json. Raises BundleError with what `buspass check` says."""
    # Nothing of this machine may get into it: neither its paths nor BUSPASS_* of whoever builds.
    environ = {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent", "BUSPASS_DATA": "/nonexistent/data"}
    command = [sys.executable, "-m", "buspass", "check", str(source), "--bind", bind, "--compile", str(folder / NAME)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        raise BundleError(f"{source} can't be compiled for a bind to {bind}:\n{done.stderr.strip()}")
    (folder / NAME).chmod(0o644)


def locks(folder: Path, host: Host, bind: str) -> frozenset[str]:
    """Give the locks that the stores of `folder`/buspass.json ask for, on this host."""
    file = folder / NAME
    settings = compiled.read(file.read_bytes(), file, {"BUSPASS_DATA": "/nonexistent/data"}, bind)
    urls = [each.state for each in settings.hosts.values()]  # a host opens the others' stores, too
    for each in settings.hosts.values():
        if each.cloud == host.cloud:
            urls += [each.blobs, each.queue, each.signer]
    asked = {STORES[scheme] for url in urls if (scheme := url.partition(":")[0]) in STORES}
    return frozenset(asked - host.given)
