"""Bytecode beside every module, good wherever the bundle lies and whenever its files are said to be written.

Owns how it is made: without checks of the source (a host's files do not change), without paths of the builder's
machine, and the same in every build. Imports take half the time with it, and a host's folder is read-only, so it would
be made anew at each start.
"""

from __future__ import annotations

import importlib.util
import marshal
import sys
from pathlib import Path
from typing import Final

from buspass_bundle.hosts import PYTHON, BundleError

_UNCHECKED: Final = b"\x01\x00\x00\x00"
"""Flags of a .pyc by hash whose hash is not compared (PEP 552)."""
TAG: Final = f"cpython-{PYTHON[0]}{PYTHON[1]}"


def compile_all(folder: Path) -> int:
    """Compile every module below `folder`; say how many. Raises BundleError for another Python's bytecode."""
    if sys.version_info[:2] != PYTHON or sys.implementation.cache_tag != TAG:
        raise BundleError(f"bytecode for {TAG} is made by that Python, and this is {sys.version.split()[0]}")
    sources = sorted(folder.rglob("*.py"))
    for path in sources:
        written = path.parent / "__pycache__" / f"{path.stem}.{TAG}.pyc"
        written.parent.mkdir(exist_ok=True)
        written.write_bytes(_compiled(path, path.relative_to(folder).as_posix()))
    return len(sources)


def _compiled(path: Path, name: str) -> bytes:
    source = path.read_bytes()
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    except SyntaxError as error:
        raise BundleError(f"{name} is no module of Python {PYTHON[0]}.{PYTHON[1]}: {error}") from error
    # What marshal writes depends on who else holds an object: read back, nobody does.
    body = marshal.dumps(marshal.loads(marshal.dumps(code)))  # noqa: S302 - what we have just written ourselves
    return importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source) + body
