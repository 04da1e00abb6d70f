"""An image without a Docker engine: what a Dockerfile says, done step by step in folders, and a container of it.

The base is this machine's own system, as it is on Debian: /usr read-only, /etc as a copy, and at /usr/local, where the
official images of Python have theirs, the Python that runs the tests. Steps run for real, by chroot in a mount namespace of
their own. Owns the instructions it knows and refuses every other: what it did not understand it must not leave out.
Needs root, or user namespaces with subordinate ids (newuidmap). What it can't show: layers, the registry, the base image.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNSHARED = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto", "--mount"]
OF_THE_NETWORK = (
    "PIP_CERT",
    "PIP_INDEX_URL",
    "PIP_RETRIES",
    "SSL_CERT_FILE",
    "UV_DEFAULT_INDEX",
    "UV_HTTP_RETRIES",
    "UV_HTTP_TIMEOUT",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
"""What a build may know of the machine: how packages are reached from here."""
DEVICES = ("null", "zero", "random", "urandom")
DIRECTORIES = ("dev", "etc", "home", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var/tmp", "var/log")
SECONDS = 1800


class NotUnderstoodError(Exception):
    """The Dockerfile says something that is not done here."""


@dataclass(frozen=True)
class Step:
    verb: str
    text: str


@dataclass
class Stage:
    base: str
    name: str
    steps: list = field(default_factory=list)


@dataclass
class Image:
    """A root folder, and how a container of it is started."""

    root: Path
    env: dict = field(default_factory=lambda: {"PATH": PATH})
    user: str = "0"
    workdir: str = "/"
    entrypoint: list = field(default_factory=list)
    cmd: list = field(default_factory=list)
    health: list = field(default_factory=list)
    volumes: list = field(default_factory=list)
    stop: str = "SIGTERM"


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def stages(text, arguments=()):
    """Read a Dockerfile into its stages; `arguments` are those of --build-arg. Raises NotUnderstoodError."""
    known, found = dict(arguments), []
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for instruction in re.split(r"(?<!\\)\n", "\n".join(lines)):
        words = instruction.replace("\\\n", " ").strip()
        if not words:
            continue
        verb, _, rest = words.partition(" ")
        rest = rest.strip()
        if verb == "FROM":
            match = re.fullmatch(r"(\S+)(?: AS (\S+))?", filled(rest, known))
            if match is None:
                raise NotUnderstoodError(words)
            found.append(Stage(match[1], match[2] or str(len(found))))
        elif not found:
            if verb != "ARG":
                raise NotUnderstoodError(words)
            name, _, value = rest.partition("=")
            known.setdefault(name, value)
        elif verb in STEPS:
            found[-1].steps.append(Step(verb, rest))
        else:
            raise NotUnderstoodError(words)
    return found


def filled(text, values):
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: values[match[1] or match[2]], text)


def pairs(text):
    return [word.split("=", 1) for word in shlex.split(text)]


# ── the steps ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Building:
    """One stage at work. `made`: the images of earlier stages by name."""

    def __init__(self, root, context, made, ignored):
        self.image, self.context, self.made, self.ignored = Image(root), context, made, ignored
        self.arguments = {}
        lay_base(root)

    def do(self, step):
        STEPS[step.verb](self, step.text)
        return self

    def run(self, text):
        if text.startswith("["):
            raise NotUnderstoodError(f"RUN {text}")
        network = {name: os.environ[name] for name in OF_THE_NETWORK if name in os.environ}
        environ = network | self.arguments | self.image.env | {"HOME": "/root"}
        command = entering(self.image.root, ["sh", "-c", f"cd {shlex.quote(self.image.workdir)} && {text}"], environ)
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"

    def copy(self, text):
        *options, target = text.split()
        sources = [word for word in options if not word.startswith("--")]
        options = [word for word in options if word.startswith("--")]
        origin, hidden = self.context, self.ignored
        if options:
            if len(options) > 1 or not options[0].startswith("--from="):
                raise NotUnderstoodError(f"COPY {text}")
            origin, hidden = self.made[options[0].removeprefix("--from=")].root, lambda _: False
        to = self._inside(target)
        for source in sources:
            found = origin / source.lstrip("/")
            assert not hidden(Path(source)), f"COPY {source}: the .dockerignore hides it"
            if found.is_file():
                shutil.copy2(found, to / found.name if target.endswith("/") else to)
            else:
                shutil.copytree(found, to, symlinks=True, dirs_exist_ok=True, ignore=_leaving(origin, hidden))

    def env(self, text):
        self.image.env |= {name: filled(value, self.image.env | self.arguments) for name, value in pairs(text)}

    def arg(self, text):
        self.arguments |= dict(pairs(text))

    def set_workdir(self, text):
        self.image.workdir = text
        self._inside(text).mkdir(parents=True, exist_ok=True)

    def _inside(self, path):
        return self.image.root / (Path(self.image.workdir) / path).relative_to("/")

    def health(self, text):
        match = re.fullmatch(r"(?:--[a-z-]+=\S+ )*CMD (\[.*\])", text)
        if match is None:
            raise NotUnderstoodError(f"HEALTHCHECK {text}")
        self.image.health = json.loads(match[1])


def _leaving(origin, hidden):
    def leave(folder, names):
        return {name for name in names if hidden((Path(folder) / name).relative_to(origin))}

    return leave


def remembering(name, read=str):
    return lambda building, text: setattr(building.image, name, read(text))


STEPS = {
    "RUN": Building.run,
    "COPY": Building.copy,
    "ENV": Building.env,
    "ARG": Building.arg,
    "WORKDIR": Building.set_workdir,
    "HEALTHCHECK": Building.health,
    "USER": remembering("user"),
    "VOLUME": remembering("volumes", str.split),
    "EXPOSE": lambda _building, _text: None,
    "STOPSIGNAL": remembering("stop"),
    "ENTRYPOINT": remembering("entrypoint", json.loads),
    "CMD": remembering("cmd", json.loads),
}


def build(dockerfile, context, folder, arguments=()):
    """Do every step of every stage; give the last one's image."""
    ignored = hidden_by(dockerfile.with_name(dockerfile.name + ".dockerignore").read_text("utf-8"))
    made = {}
    for stage in stages(dockerfile.read_text("utf-8"), arguments):
        building = Building(folder / stage.name, context, made, ignored)
        for step in stage.steps:
            building.do(step)
        made[stage.name] = building.image
    return building.image


def hidden_by(text):
    """Whether a .dockerignore hides a path: the last pattern that fits it, or a folder above it, decides."""
    patterns = [line for line in text.splitlines() if line and not line.startswith("#")]

    def hidden(path):
        verdict = False
        for pattern in patterns:
            bare = pattern.removeprefix("!")
            above = [path, *path.parents][:-1]
            if any(fnmatchcase(str(each), bare) or fnmatchcase(each.name, bare.removeprefix("**/")) for each in above):
                verdict = not pattern.startswith("!")
        return verdict

    return hidden


# ── the folders ─────────────────────────────────────────────────────────────────────────────────────────────────────


def lay_base(root):
    """What a base image holds, but for /usr, which is mounted."""
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    shutil.copytree("/etc", root / "etc", symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*shadow-"))
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in DEVICES:
        (root / "dev" / name).touch()
    done = subprocess.run(entering(root, ["ldconfig"], {"PATH": PATH}), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def mounts(root):
    """Lines of a shell that lay the machine's own parts under a root, so that nothing can change them."""
    python = Path(sys.base_prefix)
    yield f"mount --bind {root} {root}"
    for source, target in ((Path("/usr"), root / "usr"), (python, root / "usr" / "local")):
        yield f"mount --bind {source} {target} && mount -o remount,bind,ro {target}"
    for name in DEVICES:
        yield f"mount --bind /dev/{name} {root}/dev/{name}"
    yield f"mount --rbind /proc {root}/proc"


def entering(root, command, environ):
    """The words that run a command under a root as its root user, and change what is there."""
    said = [f"{name}={value}" for name, value in environ.items()]
    inside = shlex.join(["chroot", str(root), "env", "-i", *said, *command])
    return [*UNSHARED, "sh", "-euc", "\n".join([*mounts(root), f"exec {inside}"])]


def container(image, arguments=None, *, binds=(), environ=(), alone=False, command=None):
    """The words that start a container of an image: its user, no capability, its root read-only, /tmp its own.

    `binds`: (folder or file, place, writable); `alone`: with a network that nobody else is in. `arguments` in place of its
    CMD, or `command` in place of it all.
    """
    root = image.root
    lines = [*mounts(root), f"mount -t tmpfs -o mode=1777,size=16m tmpfs {root}/tmp"]
    for source, place, writable in binds:
        target = root / str(place).lstrip("/")
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        lines.append(f"mount --bind {source} {target}")
        if not writable:
            lines.append(f"mount -o remount,bind,ro {target}")
    lines.append(f"mount -o remount,bind,ro {root}")
    if alone:
        up = "import fcntl,socket,struct;fcntl.ioctl(socket.socket(),0x8914,struct.pack('16sh',b'lo',65))"
        lines.append(shlex.join([sys.executable, "-c", up]))
    entry = next(
        line.split(":") for line in (root / "etc/passwd").read_text().splitlines() if f":{image.user}:" in line
    )
    nobody = [f"--reuid={entry[2]}", f"--regid={entry[3]}", "--clear-groups", "--no-new-privs"]
    nobody += ["--inh-caps=-all", "--bounding-set=-all"]
    said = [f"{name}={value}" for name, value in {**image.env, **dict(environ)}.items()]
    words = command or [*image.entrypoint, *(image.cmd if arguments is None else arguments)]
    inside = ["chroot", str(root), "setpriv", *nobody, "env", "-i", "-C", image.workdir, *said, *words]
    network = ["--net"] if alone else []
    return [*UNSHARED, *network, "sh", "-euc", "\n".join([*lines, f"exec {shlex.join(inside)}"])]
