"""Make a host's bundle: a folder, a zip of it and its SBOM, for each machine that the host runs on.

make bundle-lambda CONFIG=buspass.yaml
python -m buspass_bundle lambda --config buspass.yaml --machine arm64 --out build/bundles
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from buspass_bundle import archive, configuration, sbom, stage
from buspass_bundle.bytecode import compile_all
from buspass_bundle.hosts import HOSTS, MACHINES, ROOT, BundleError, Host
from buspass_bundle.parts import parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for. `config` None: the bundle carries no configuration, and locks for any are named in `extra`."""

    config: Path | None
    bind: str
    extra: frozenset[str]
    out: Path


def build(host: Host, machine: str, wish: Wish) -> Path:
    """Make one bundle anew; give the path of its archive. Raises BundleError."""
    folder = wish.out / f"{host.name}-{machine}"
    shutil.rmtree(folder, ignore_errors=True)
    lib = folder / host.lib
    lib.mkdir(parents=True)
    locks = wish.extra
    if wish.config is not None:
        configuration.compile_into(folder, wish.config, wish.bind)
        locks |= configuration.locks(folder, host, wish.bind)
    stage.install(lib, host, machine, locks)
    stage.leave_out(lib)
    stage.copy_ours(folder, lib, host)
    stage.leave_out(lib)
    stage.check_machine(folder, machine)
    found = parts(lib, machine)
    (folder / sbom.NAME).write_bytes(sbom.sbom(folder, host, machine, found))
    (folder / sbom.LICENCES).write_text(sbom.licences(found), "utf-8")
    compile_all(folder)
    stage.set_modes(folder)
    packed = folder.with_name(f"{folder.name}.zip")
    archive.pack(folder, packed)
    shutil.copyfile(folder / sbom.NAME, folder.with_name(f"{folder.name}.cdx.json"))
    return packed


def judge(host: Host, folder: Path, packed: Path) -> str:
    """Give the line that tells of a bundle. Raises BundleError where it is larger than its host takes."""
    zipped, unpacked = packed.stat().st_size, archive.size(folder)
    line = (
        f"{packed.name}: {zipped / 1e6:.1f} MB zipped (at most {host.zipped / 1e6:.0f}), "
        f"{unpacked / 1e6:.1f} MB unpacked (at most {host.unpacked / 1e6:.0f})\n"
        f"  sha256 {hashlib.sha256(packed.read_bytes()).hexdigest()}\n"
        f"  content {archive.digest(folder)}\n"
    )
    if zipped > host.zipped or unpacked > host.unpacked:
        raise BundleError(f"too large: {line}")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 with the reason where a bundle can't be made."""
    parser = argparse.ArgumentParser(prog="python -m buspass_bundle", description=__doc__.splitlines()[0])
    parser.add_argument("host", choices=sorted(HOSTS))
    parser.add_argument("--config", metavar="FILE", type=Path, help="buspass.yaml, compiled into the bundle")
    parser.add_argument("--bind", metavar="A", default="0.0.0.0", help="judge it for a host that listens here")  # noqa: S104
    parser.add_argument("--with", metavar="LOCK", action="append", default=[], dest="extra", help="one more lock")
    parser.add_argument("--machine", choices=sorted(MACHINES), action="append", help="not all that the host runs on")
    parser.add_argument("--out", metavar="DIR", type=Path, default=ROOT / "build" / "bundles")
    options = parser.parse_args(arguments)
    wish = Wish(config=options.config, bind=options.bind, extra=frozenset(options.extra), out=options.out.resolve())
    host = HOSTS[options.host]
    try:
        for machine in options.machine or host.machines:
            packed = build(host, machine, wish)
            sys.stdout.write(judge(host, packed.with_suffix(""), packed))
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
