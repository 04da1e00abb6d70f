"""Bundles, built, unpacked into empty folders and run by the platforms' real runtimes: the whole surface, host by host.

The table and the walks are those of test_three_hosts, played to the bundles.
"""

import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import hosts
import pytest
from bundled import BUNDLES, BundledDomain, build
from test_three_hosts import (
    Player,
    test_a_key_is_one_key_at_every_host,  # noqa: F401 - collected here, too: the fixtures below are other ones
    test_a_task_goes_from_host_to_host,  # noqa: F401
    test_a_tool_of_one_host_is_refused_elsewhere_by_its_address,  # noqa: F401
    test_every_answer_says_how_long_it_is,  # noqa: F401
    test_every_host_answers_alike,  # noqa: F401
)

from buspass.testing.serve import free_port

pytestmark = pytest.mark.verify


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    """The trust domain of three bundles, in place of the session's."""
    with BundledDomain(tmp_path_factory.mktemp("bundled")) as running:
        yield running


@pytest.fixture(scope="module")
def played(domain):
    return {host: Player(domain, host) for host in domain.urls}, {}


@pytest.fixture(scope="module")
def answers(played):
    players, found = played
    return found or found.update({host: player.play() for host, player in players.items()}) or found


# ── what runs ──


@pytest.mark.parametrize("host", BUNDLES)
def test_native_code_comes_out_of_the_bundle_and_the_platform_alone(domain, answers, host):
    """What a process has mapped tells where its packages came from, whatever its path says."""
    inside = [str(domain.folder / "unpacked" / host), str(domain.folder / "runtimes")]
    for pid in processes(domain, host):
        mapped = set(re.findall(r"/\S+\.so[.\d]*$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE))
        ours = {path for path in mapped if "site-packages" in path or path.startswith((str(hosts.REPOSITORY), "/tmp"))}
        assert {path for path in ours if not path.startswith(tuple(inside))} == set()
        assert any(("httptools" if host == "onprem" else "pyreqwest") in path for path in ours)  # what calls go out by


def processes(domain, host):
    """The processes that serve: on Lambda those that the service has started."""
    first = domain.processes[host].pid
    if host != "aws":
        return [first]
    children = [int(found) for found in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
    assert len(children) == 2
    return children


def test_the_streaming_runtime_starts_by_the_bundles_own_bootstrap(domain, answers, tmp_path):
    settings = {**domain.settings("aws"), "BUSPASS_DATA": str(tmp_path / "data"), **hosts.SECRETS}
    port = free_port()
    command = [
        domain.interpreter("aws"),
        *hosts.COMMANDS["aws"],
        "--streaming",
        *domain.instance(),
        "--port",
        str(port),
    ]
    command += [part for name in settings for part in ("--env", name)]
    process = subprocess.Popen(command, env={**os.environ, **settings}, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().startswith("listening ")
        url = f"http://127.0.0.1:{port}"
        assert hosts.exchange(url, "GET", "/health/ready").status == 200
        _, token = domain.start("onprem", "work")
        body = {"model": "plan", "stream": True, "messages": [{"role": "user", "content": "hello there"}]}
        headers = [("Authorization", f"Bearer {token}"), ("Content-Type", "application/json")]
        answer = hosts.exchange(url, "POST", "/v1/chat/completions", headers, json.dumps(body).encode())
        assert answer.status == 200, answer
        assert answer.body.rstrip().endswith(b"data: [DONE]")
        assert "content-length" not in answer.headers
    finally:
        process.terminate()
        process.wait(120)
        process.stdout.close()


# ── what is built ──


@pytest.mark.parametrize("host", BUNDLES)
def test_a_build_from_another_checkout_by_another_user_elsewhere_is_the_same(domain, host, tmp_path):
    copy = tmp_path / "another place"
    for part in ("core", "aws", "azure", "onprem", "infra", "pyproject.toml", "LICENSE"):
        source = hosts.REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, copy / part)
    config = copy / "configuration"
    shutil.copytree(domain.source, config)
    for path in copy.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1e9, 1e9))
    changed = {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7", "BUSPASS_DATA": "/elsewhere", "LC_ALL": "C"}
    again, _ = build(BUNDLES[host], tmp_path / "out", config / "buspass.yaml", root=copy, **changed)
    assert again.read_bytes() == domain.built[host].read_bytes()


def test_sizes_are_printed_and_within_what_a_host_takes(domain, tmp_path, record_property):
    archive, printed = build("lambda", tmp_path / "out", domain.source / "buspass.yaml", machine="arm64")
    said = re.fullmatch(
        r"lambda-arm64\.zip: ([\d.]+) MB zipped \(at most 45\), ([\d.]+) MB unpacked \(at most 140\)\n"
        r"  sha256 [0-9a-f]{64}\n  content [0-9a-f]{64}\n",
        printed,
    )
    assert said, printed
    entries = zipfile.ZipFile(archive).infolist()
    assert archive.stat().st_size < 45e6
    assert sum(entry.file_size for entry in entries) < 140e6
    record_property("sizes", printed)


@pytest.mark.parametrize("host", BUNDLES)
def test_a_bundle_holds_what_its_host_needs_and_nothing_that_it_does_not(domain, host):
    names = zipfile.ZipFile(domain.built[host]).namelist()
    assert names == sorted(names)
    assert [
        name for name in names if re.search(r"\.pth$|\.pyi$|/tests?/|RECORD$|/testing/|^bin/|local_host", name)
    ] == []
    sources = {name for name in names if name.endswith(".py")}
    compiled = {name for name in names if name.endswith(".pyc")}
    assert compiled == {re.sub(r"([^/]+)\.py$", r"__pycache__/\1.cpython-313.pyc", name) for name in sources}
    packages = {part.split("/")[0] for part in (name.removeprefix("lib/") for name in names)}
    assert not packages & {"boto3", "botocore", "awslambdaric", "pytest", "tiktoken", "mypy"}
    assert {"buspass.json", "sbom.cdx.json", "LICENCES.txt", "LICENSE"} <= set(names)


@pytest.mark.parametrize("host", BUNDLES)
def test_the_sbom_names_every_package_with_its_licence(domain, host):
    document = json.loads(zipfile.ZipFile(domain.built[host]).read("sbom.cdx.json"))
    names = zipfile.ZipFile(domain.built[host]).namelist()
    installed = {
        found[1].lower() for name in names if (found := re.search(r"([^/]+)-[^/]+\.dist-info/METADATA$", name))
    }
    libraries = [part for part in document["components"] if part["type"] == "library"]
    assert {part["name"].replace("-", "_") for part in libraries} == installed
    assert all(part["licenses"][0]["expression"] for part in libraries)
    refs = {part["bom-ref"] for part in document["components"]}
    edges = {row["ref"]: row["dependsOn"] for row in document["dependencies"]}
    assert {ref for needs in edges.values() for ref in needs} <= refs
    reached, waiting = set(), ["pkg:pypi/buspass@0.1.0"]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += edges[ref]
    assert reached >= {part["bom-ref"] for part in libraries}
    assert (domain.built[host].parent / f"{domain.built[host].stem}.cdx.json").read_text() == zipfile.ZipFile(
        domain.built[host]
    ).read("sbom.cdx.json").decode()
