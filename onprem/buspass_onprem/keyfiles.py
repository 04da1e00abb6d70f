"""Files that hold a key: made once, whole or not at all, for the owner alone.

Owns how such a file comes to be and who may read it. Refuses to know what is in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from buspass.errors import ConfigError


def read_or_make(path: Path, what: str, make: Callable[[], bytes] | None) -> bytes:
    """Give the file's bytes; where there is none and `make` is given, those it made or another process did.

    `what` names the key in errors. Raises ConfigError where the file is missing and may not be made, can't be
    read or written, or may be read by everybody.
    """
    try:
        if make is not None and not path.exists():
            _publish(path, make())
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            [f"{what} {path}: there is no such file; off loopback it is never made by itself, so put it there"]
        ) from None
    except OSError as error:
        raise ConfigError([f"{what} {path}: {error.strerror or error}"]) from error
    if mode & 0o007:
        raise ConfigError([f"{what} {path}: everybody may read it (mode {mode:o}); `chmod 600` it"])
    return content


def _publish(path: Path, content: bytes) -> None:
    """Put the file there unless there is one: several processes may try at once, one of them wins.

    It is written beside and linked into place, since a file opened with O_EXCL is visible while still empty.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
