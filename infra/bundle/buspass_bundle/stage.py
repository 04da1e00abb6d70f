"""The folder of a bundle: wheels for its platform by hash, our packages, and nothing that a host does not need.

Owns what is installed, copied and left out, and that all native code is for the platform. Refuses to know licences and
archives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from buspass_bundle.hosts import GLIBC, LOCKS, MACHINES, PACKAGES, PYTHON, ROOT, BundleError, Host

LEFT_OUT: Final = (
    ("**/__pycache__", "made anew, for whatever place the bundle is unpacked to"),
    ("**/*.pth", "runs code at the start of every interpreter, and only in a site-packages"),
    ("**/*.pyi", "types: nobody checks them there"),
    ("**/py.typed", "the same"),
    ("**/*.h", "headers"),
    ("**/*.c", "sources of what is compiled"),
    ("**/*.pyx", "the same"),
    ("**/*.pxd", "the same"),
    ("bin", "programs: nobody calls them there"),
    ("**/tests", "packages' own tests"),
    ("*.dist-info/RECORD", "says what was installed, before this was left out"),
    ("*.dist-info/INSTALLER", "who installed it"),
    ("*.dist-info/REQUESTED", "the same"),
    ("phonenumbers/geodata", "places by number, 19 MB: numbers are found, never located"),
    ("phonenumbers/carrierdata", "the same of carriers"),
    ("phonenumbers/tzdata", "the same of time zones"),
    ("stdnum/oui.dat", "makers of network cards: account numbers are checked, nothing else"),
    ("stdnum/imsi.dat", "the same of SIM cards"),
    ("botocore/data/[!_]*", "descriptions of services that are not called, 20 MB; KEPT says which are"),
    ("buspass/testing", "suites and stand-ins"),
    ("buspass_azure/local_host.py", "a Functions host for developers"),
    ("buspass_azure/local_proxy.py", "the same"),
)
"""What a bundle does not carry: a pattern from the packages' folder, and why."""
KEPT: Final = frozenset({"sts", "sso", "sso-oidc", "signin", "endpoints.json", "partitions.json"})
"""Of botocore/data: what its chain of keys asks."""
_ELF_MACHINE: Final = {"x86_64": 62, "arm64": 183}


def install(lib: Path, host: Host, machine: str, locks: Iterable[str]) -> None:
    """Put the wheels of the locks into `lib`. Raises BundleError where one is missing or its hash is another."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise BundleError("uv is needed: name it in the environment as UV, or call `make bundle-…`")
    version = ".".join(map(str, PYTHON))
    command = [uv, "pip", "install", "-q", "--no-config", "--python", sys.executable, "--target", str(lib)]
    command += ["--python-platform", f"{MACHINES[machine]}-manylinux_{GLIBC}", "--python-version", version]
    command += ["--only-binary", ":all:", "--require-hashes", "--no-deps", "--link-mode", "copy"]
    for name in (host.name, *sorted(locks)):
        if not (lock := LOCKS / f"{name}.lock").exists():
            known = ", ".join(sorted(path.stem for path in LOCKS.glob("*.lock")))
            raise BundleError(f"there is no lock {name!r}; there are {known}")
        command += ["-r", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - uv, and our own files
    if done.returncode:
        raise BundleError(f"the wheels for {machine} can't be had:\n{done.stderr.strip()}")


def copy_ours(folder: Path, lib: Path, host: Host) -> None:
    """Copy our packages into `lib` and the host's entry files to the root."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, lib / Path(package).name, ignore=shutil.ignore_patterns("__pycache__"))
    for entry in host.entry:
        shutil.copyfile(ROOT / entry, folder / Path(entry).name)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")


def leave_out(lib: Path) -> None:
    """Take out what LEFT_OUT names."""
    for pattern, _ in LEFT_OUT:
        for path in sorted(lib.glob(pattern)):
            if path.parent == lib / "botocore" / "data" and path.name in KEPT:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
    for name in (".lock", ".gitignore"):  # uv's own
        (lib / name).unlink(missing_ok=True)


def check_machine(folder: Path, machine: str) -> None:
    """Raise BundleError where native code is for another machine: it would fail at its first import, over there."""
    for path in sorted(folder.rglob("*.so*")):
        head = path.read_bytes()[:20]
        if head[:4] != b"\x7fELF" or int.from_bytes(head[18:20], "little") != _ELF_MACHINE[machine]:
            raise BundleError(f"{path.relative_to(folder)} is not native code of {machine}")


def set_modes(folder: Path) -> None:
    """Make everything readable, and nothing executable but the entry that is run: the builder's umask says neither."""
    for path in sorted(folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.name == "bootstrap" else 0o644)
