"""A YAML configuration read by a child of this process, so that what reads it does not stay in the one that serves.

pydantic, the YAML parser, the schema's validator and the price lists are some 20 MB that no call needs. Owns the child.
Refuses to judge: where the child could not read it, whoever asks reads it again and hears why.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from buspass.config import compiled


def document(environ: Mapping[str, str], *, bind: str, port: int) -> bytes | None:
    """Give BUSPASS_CONFIG as a compiled document, None where it is one already, is wrong, or can't be read apart."""
    path = Path(environ.get("BUSPASS_CONFIG") or ".")
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return None  # a fork takes no thread along, and may find their locks taken
    if not path.is_file() or compiled.is_compiled(path.read_bytes()):
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _read(path, environ, bind, port, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        found = told.read()
    _, status = os.waitpid(child, 0)
    return found if status == 0 and found else None


def _read(path: Path, environ: Mapping[str, str], bind: str, port: int, writing: int) -> None:
    """Do it, and end this process without what its parent has to do at its end."""
    status = 1
    try:
        with os.fdopen(writing, "wb") as told:
            told.write(_compiled(path, environ, bind, port))
        status = 0
    finally:
        os._exit(status)


def _compiled(path: Path, environ: Mapping[str, str], bind: str, port: int) -> bytes:
    from buspass.config.build import load  # noqa: PLC0415 - all of this is meant to stay in the child
    from buspass.config.places import Surroundings  # noqa: PLC0415

    around = Surroundings(folder=Path(os.path.abspath(path)).parent, environ=environ, bind=bind, port=port)  # noqa: PTH100
    settings = load(path, environ=environ, bind=bind, port=port)
    return compiled.written(settings, folder=str(around.folder), data=around.data, loopback=around.loopback)
