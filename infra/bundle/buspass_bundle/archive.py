"""A folder as a zip that is the same in every build: entries in order, one time, two modes."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Final

TIME: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can say."""


def files(folder: Path) -> list[Path]:
    """Give the files below `folder` in the order of their names."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def pack(folder: Path, archive: Path) -> None:
    """Write the archive of `folder`."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for path in files(folder):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # modes are Unix's, wherever it is built
            entry.external_attr = (0o100000 | (path.stat().st_mode & 0o777)) << 16
            out.writestr(entry, path.read_bytes())


def digest(folder: Path) -> str:
    """Give the SHA-256 over names, modes and contents: the same even where another zlib packs them otherwise."""
    whole = hashlib.sha256()
    for path in files(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder).as_posix()
        whole.update(f"{path.stat().st_mode & 0o777:o} {content} {name}\n".encode())
    return whole.hexdigest()


def size(folder: Path) -> int:
    """Give the bytes of all files."""
    return sum(path.stat().st_size for path in files(folder))
