"""The on-prem image, built without a Docker engine, passes the surface's contract as nobody in a read-only folder."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import hosts
import image_build as images
import pytest
from test_three_hosts import ROWS, Player, at

DOCKERFILE = hosts.REPOSITORY / "onprem" / "Dockerfile"
UID = 10001

pytestmark = pytest.mark.verify


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image")
    return images.build(DOCKERFILE, hosts.REPOSITORY, folder)


class Contained(hosts.Domain):
    """A domain whose one host is a container: its secrets are files, its configuration a mount."""

    def __init__(self, folder, image):
        super().__init__(folder, {"onprem": hosts.HOSTS["onprem"]})
        self.image, self.secrets = image, folder.parent / "secrets"

    def _spawn(self, host):
        self.secrets.mkdir()
        for name, value in hosts.SECRETS.items():
            (self.secrets / name).write_text(f"{value}\n")
        self._data(host).mkdir()
        for path in (self.folder, *self.folder.rglob("*"), self.secrets, *self.secrets.iterdir()):
            os.chown(path, UID, UID)
        port = self.urls[host].rpartition(":")[2]
        command = images.container(
            self.image,
            ["up", "--bind", "127.0.0.1", "--port", port, "--config", "/domain/buspass.yaml"],
            binds=[(self.folder, "/domain", True), (self.secrets, "/run/secrets", False)],
            environ={"BUSPASS_HOST": host, "BUSPASS_DATA": f"/domain/{self._data(host).name}"},
        )
        with (self.folder / f"{host}.log").open("wb") as log:
            self.processes[host] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"]},
            )


@pytest.fixture(scope="session")
def contained(image, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contained") / "domain"
    folder.mkdir()
    with Contained(folder, image) as running:
        yield running


def test_it_answers_the_whole_table_as_the_other_hosts_do(contained):
    player = Player(contained, "onprem")
    answers = player.play()
    wrong = {}
    for row in ROWS:
        status, code = row["is"] if isinstance(row["is"], list) else (row["is"], None)
        answer = answers[row["name"]]
        if answer.status != status or (code and answer.json.get("error", answer.json)["code"] != code):
            wrong[row["name"]] = answer
        wrong |= {
            (row["name"], path): at(answer.json, path)
            for path, wanted in row.get("shows", {}).items()
            if at(answer.json, path) != player.filled(wanted)
        }
    assert wrong == {}


def test_it_runs_as_nobody_and_may_do_nothing(contained):
    status = Path(f"/proc/{contained.processes['onprem'].pid}/status").read_text()
    said = dict(re.findall(r"^(Uid|Gid|CapEff|CapBnd|NoNewPrivs):\s*(\S+)", status, re.MULTILINE))
    assert said == {"Uid": str(UID), "Gid": said["Gid"], "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1"}
    assert said["Gid"] != "0"


@pytest.mark.parametrize("place", ["/opt/buspass/lib", "/etc", "/", "/usr/local/lib"])
def test_nothing_of_it_can_be_written(image, place):
    code = f"open('{place}/written', 'w')"
    done = subprocess.run(images.container(image, command=["python", "-c", code]), text=True, capture_output=True)
    assert (done.returncode, done.stderr.rstrip().rpartition("[")[2].partition("]")[0]) == (1, "Errno 30")  # EROFS


def test_its_own_command_serves_and_its_health_check_sees_it(image, tmp_path):
    """As `docker run` starts it: bound to every address, in a network of its own, with a configuration for that."""
    text = (hosts.REPOSITORY / "onprem" / "compose.buspass.yaml").read_text("utf-8")
    text = re.sub(r"^state: .*$", "state: sqlite:////data/state.db", text, flags=re.MULTILINE)
    (tmp_path / "buspass.yaml").write_text(text)
    secrets, data = tmp_path / "secrets", tmp_path / "data"
    secrets.mkdir()
    data.mkdir()
    (secrets / "BUSPASS_DOMAIN_KEY").write_text("5a" * 32)
    made = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", secrets / "signer.pem"]
    subprocess.run(made, check=True, capture_output=True)
    for path in (secrets, data, *secrets.iterdir()):
        os.chown(path, UID, UID)
    started, healthy = (shlex.join(words) for words in ([*image.entrypoint, *image.cmd], image.health))
    script = f"""
        {started} & gateway=$!
        for _ in $(seq 300); do
            if {healthy} 2>/dev/null; then echo healthy; break; fi
            sleep 0.2
        done
        kill -s {image.stop.removeprefix("SIG")} $gateway
        wait $gateway || echo "ended with $?"
    """
    binds = [(tmp_path / "buspass.yaml", "/etc/buspass/buspass.yaml", False), (secrets, "/run/secrets", False)]
    command = images.container(image, binds=[*binds, (data, "/data", True)], alone=True, command=["sh", "-c", script])
    done = subprocess.run(command, text=True, capture_output=True, timeout=600)
    assert "healthy" in done.stdout.splitlines(), done
    assert (data / "state.db").exists()
    assert [*data.glob("operator.key"), *data.glob("keys/*")] == []  # keys are made on loopback alone
    assert image.volumes == ["/data"]


def test_it_carries_what_the_host_needs_byte_compiled_and_no_tests(image):
    lib = image.root / "opt/buspass/lib"
    modules = [path for path in lib.rglob("*.py") if "buspass" in path.parts[len(lib.parts)]]
    assert len(modules) > 200
    assert [path for path in modules if not list(path.parent.glob(f"__pycache__/{path.stem}.cpython-313.pyc"))] == []
    assert [*lib.glob("*/testing"), *lib.glob("pytest*"), *lib.rglob("*.pth")] == []
    size = sum(path.stat().st_size for path in lib.rglob("*") if path.is_file())
    assert size < 200_000_000, size


@pytest.mark.parametrize(
    "line",
    ["ADD https://example.com/x /x", 'RUN ["python"]', "COPY --chown=1 a b", "ONBUILD RUN x", "HEALTHCHECK NONE"],
)
def test_what_the_builder_does_not_know_it_refuses(line, tmp_path):
    with pytest.raises(images.NotUnderstoodError):
        one_step(line, tmp_path)


def one_step(line, folder):
    (stage,) = images.stages(f"ARG BASE=x\nFROM ${{BASE}}\n{line}\n")
    building = images.Building.__new__(images.Building)
    building.image, building.context, building.made, building.ignored = images.Image(folder), folder, {}, bool
    building.do(stage.steps[0])
