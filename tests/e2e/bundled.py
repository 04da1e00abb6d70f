"""Bundles as they are built, unpacked and run: by an interpreter that has nothing, with the bundle on its path alone.

Owns the builds, the platforms' own folders (what Lambda's and the Functions worker's runtime bring) and the domain of
three bundled hosts. Refuses to know what a test sends.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import hosts
from fetching import fetched

UV = os.environ.get("UV") or shutil.which("uv") or str(hosts.REPOSITORY / ".cache" / "uv" / "bin" / "uv")
LOCK = hosts.REPOSITORY / "requirements.lock"
RUNTIMES = {"aws": ["awslambdaric", "simplejson", "snapshot-restore-py"], "azure": ["azure-functions-runtime"]}
"""What a platform has of its own, beside the bundle. (Lambda has boto3 as well: nothing here asks for it.)"""
BUNDLES = {"aws": "lambda", "azure": "azure", "onprem": "onprem"}
PLACES = {"aws": ".", "azure": ".python_packages/lib/site-packages", "onprem": "lib"}


def build(host, out, config, *, bind="127.0.0.1", machine="x86_64", root=hosts.REPOSITORY, **environ):
    """Make a bundle; give its archive and what was printed."""
    command = [sys.executable, "-m", "buspass_bundle", host, "--machine", machine, "--config", str(config)]
    done = fetched(
        [*command, "--bind", bind, "--out", str(out)],
        env={**os.environ, "UV": str(UV), **environ, "PYTHONPATH": str(root / "infra" / "bundle")},
        cwd=out.parent,
        seconds=1200,
    )
    return out / f"{host}-{machine}.zip", done.stdout


def unpack(archive, folder):
    """Unpack into an empty folder, with the modes that the archive says."""
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
        for entry in packed.infolist():
            (folder / entry.filename).chmod(entry.external_attr >> 16 & 0o777)
    return folder


def bare(folder):
    """An interpreter without any package."""
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, folder], check=True)
    return folder / "bin" / "python"


def runtime(host, folder):
    """What the platform brings, in the versions of the lock."""
    install = [
        UV,
        "pip",
        "install",
        "-q",
        "--python",
        sys.executable,
        "--target",
        str(folder),
        "--constraint",
        str(LOCK),
    ]
    deps = ["--no-deps"] if host == "aws" else []
    fetched([*install, *deps, *RUNTIMES[host]])
    return folder


class BundledDomain(hosts.Domain):
    """Three hosts, each out of its bundle. The configuration is compiled into each; its files are not beside it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.source = folder / "source"
        self.source.mkdir()
        shared = folder / "shared"
        shared.mkdir()
        text = self.config.read_text("utf-8")
        text = re.sub(r"(?m)^state: .*", f"state: sqlite:///{shared}/state.db?durability=process", text)
        (self.source / "buspass.yaml").write_text(re.sub(r"(?m)^blobs: .*", f"blobs: file:///{shared}/blobs", text))
        shutil.move(folder / "policies", self.source / "policies")
        self.config.unlink()
        self.config = self.source / "buspass.yaml"
        self.python = bare(folder / "bare")
        self.built, self.bundles, runtimes = {}, {}, {}
        for host, name in BUNDLES.items():
            self.built[host], _ = build(name, folder / "built", self.config)
            self.bundles[host] = unpack(self.built[host], folder / "unpacked" / host)
        for host in RUNTIMES:
            runtimes[host] = runtime(host, folder / "runtimes" / host)
        self.paths = {host: [str(self.bundles[host] / place)] for host, place in PLACES.items()}
        self.paths["aws"].append(str(runtimes["aws"]))
        self.paths["azure"] = [str(runtimes["azure"])]  # the worker's start adds the bundle's, before its own
        self.commands["aws"] = [*hosts.COMMANDS["aws"], *self.instance()]
        front = str(Path(__file__).with_name("bundled_functions.py"))
        self.commands["azure"] = [front, "--repository", str(hosts.REPOSITORY), "--app", str(self.bundles["azure"])]

    def instance(self):
        """What tells the Lambda service to run a bundle."""
        path = os.pathsep.join(self.paths["aws"])  # the instances' own: the service that runs them is this repository's
        return ["--python", str(self.python), "--task-root", str(self.bundles["aws"]), "--env", f"PYTHONPATH={path}"]

    def settings(self, host):
        more = {"BUSPASS_CONFIG": str(self.bundles[host] / "buspass.json"), "PYTHONDONTWRITEBYTECODE": "1"}
        if host != "aws":
            more |= {"PYTHONPATH": os.pathsep.join(self.paths[host]), "PYTHONSAFEPATH": "1"}
        return {**super().settings(host), **more}

    def interpreter(self, host):
        return sys.executable if host == "aws" else str(self.python)
