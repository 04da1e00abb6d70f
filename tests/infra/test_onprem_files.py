"""compose.yaml, its configuration, and the page of infra/ that puts clouds together: what is named is there, what is said loads."""

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from buspass.config.build import load
from buspass.testing.serve import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "onprem" / "compose.yaml").read_text("utf-8"))
CONFIGURATION = (ROOT / "onprem" / "compose.buspass.yaml").read_text("utf-8")
PAGE = (ROOT / "infra" / "README.md").read_text("utf-8")


def loaded(text, folder):
    (folder / "buspass.yaml").write_text(text)
    return load(folder / "buspass.yaml", environ={"BUSPASS_DATA": "/data"}, bind="0.0.0.0")


def test_every_service_is_nobody_in_a_read_only_root():
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "mem_limit" in service
    dockerfile = (ROOT / "onprem" / "Dockerfile").read_text("utf-8")
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == [COMPOSE["services"]["redis"]["user"]]


def test_redis_is_reached_by_the_gateway_alone_and_the_gateway_by_this_machine():
    assert COMPOSE["networks"]["state"] == {"internal": True}
    assert COMPOSE["services"]["redis"]["networks"] == ["state"]
    assert "ports" not in COMPOSE["services"]["redis"]
    assert COMPOSE["services"]["gateway"]["ports"] == ["127.0.0.1:8700:8700"]


def test_opa_is_there_when_it_is_asked_for_and_only_the_gateway_reaches_it():
    opa, gateway = COMPOSE["services"]["opa"], COMPOSE["services"]["gateway"]
    assert opa["profiles"] == ["opa"]
    assert COMPOSE["networks"]["policy"] == {"internal": True}
    assert opa["networks"] == ["policy"]
    assert "ports" not in opa
    assert [name for name, each in COMPOSE["services"].items() if "policy" in each["networks"]] == ["gateway", "opa"]
    assert {each.split(":")[0] for each in opa["volumes"]} <= {each.split(":")[0] for each in gateway["volumes"]}


def test_the_secrets_that_the_configuration_names_are_mounted(tmp_path):
    settings = loaded(CONFIGURATION, tmp_path)
    (host,) = settings.hosts.values()
    named = {settings.domain_key, *re.findall(r"password=(\w+)", host.state)}
    named |= {provider.auth.secret for provider in settings.providers.values()}
    named |= set(re.findall(r"/run/secrets/(\S+)", host.signer))
    assert named == set(COMPOSE["services"]["gateway"]["secrets"])
    assert set(COMPOSE["services"]["redis"]["secrets"]) <= named
    assert {name: Path(each["file"]).name for name, each in COMPOSE["secrets"].items()} == {
        name: name for name in named
    }
    assert re.match(r"redis://redis[:?]", host.state)
    assert host.blobs.startswith("file:////data/")


def test_the_image_is_built_from_what_the_ignore_file_shows():
    dockerfile = (ROOT / "onprem" / "Dockerfile").read_text("utf-8")
    shown = re.findall(r"^!(.*)$", (ROOT / "onprem" / "Dockerfile.dockerignore").read_text("utf-8"), re.MULTILINE)
    sources = [word for line in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert sorted(sources) == sorted(shown)
    assert all((ROOT / source).exists() for source in sources)
    assert "ARG BASE=" in dockerfile
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"${BASE}"}


def test_the_page_of_several_clouds_shows_configurations_that_load(tmp_path):
    whole, host = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    settings = loaded(whole, tmp_path)
    assert {name: each.state for name, each in settings.hosts.items()} == dict.fromkeys(
        ("aws", "azure"), "dynamodb://buspass?region=eu-central-1"
    )
    assert [each.signer.partition(":")[0] for each in settings.hosts.values()] == ["kms", "keyvault"]
    third = loaded(whole.replace("state: dyn", host.removeprefix("hosts:\n") + "state: dyn"), tmp_path)
    assert third.hosts["onprem"].state.startswith("redis://")
    assert third.hosts["aws"].state.startswith("dynamodb://")


def test_the_page_of_several_clouds_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)", PAGE)
    assert len(links) > 3
    assert [link for link in links if not (ROOT / "infra" / link).exists()] == []
    outputs = re.findall(r"^output (\w+)", (ROOT / "infra" / "azure" / "main.bicep").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"output `(\w+)`", PAGE)) <= set(outputs)


@pytest.mark.verify
def test_redis_starts_as_compose_says_with_the_password_and_nothing_that_evicts(tmp_path):
    """The service's own command, with its data folder, secret and port put in the place of the container's."""
    port, service = free_port(), COMPOSE["services"]["redis"]
    (tmp_path / "REDIS_PASSWORD").write_text("of-a-test\n")
    (text,) = service["command"]
    text = text.replace("$$", "$").replace("/run/secrets", str(tmp_path)).replace("dir /data", f"dir {tmp_path}")
    text = text.replace("requirepass", f"bind 127.0.0.1\nport {port}\nrequirepass", 1)
    process = subprocess.Popen([*service["entrypoint"], text], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        assert "NOAUTH" in asked(port, "")
        for name, value in {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}.items():
            assert asked(port, "of-a-test", "config", "get", name).split() == [name, value]
    finally:
        process.terminate()
        process.wait(120)


def asked(port, password, *words):
    command = [shutil.which("redis-cli"), "-p", str(port), *(words or ("ping",))]
    done = subprocess.run(command, env={"REDISCLI_AUTH": password} if password else {}, capture_output=True, text=True)
    return done.stdout + done.stderr
