"""The parts of a bundle, one by one: its locks belong to the house's lock, bytecode and archives tell no time."""

import importlib.util
import os
import re
import shutil
import sys
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from buspass.cli import main
from buspass_bundle import archive, configuration, parts, sbom, stage
from buspass_bundle.bytecode import TAG, compile_all
from buspass_bundle.hosts import HOSTS, LOCKS, ROOT, STORES, BundleError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKED = sorted(LOCKS.glob("*.lock"))


def pins(lock):
    """Hashes by pin, such as `idna==3.20`, of a lock."""
    text = re.sub(r"\s*\\\n\s*", " ", lock.read_text("utf-8"))
    lines = (line.split() for line in text.splitlines() if line)
    return {line[0]: {part for part in line if part.startswith("--hash=")} for line in lines}


def asked(name):
    lines = (LOCKS / f"{name}.in").read_text("utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")}


# ── locks ──


@pytest.mark.parametrize("lock", LOCKED, ids=lambda lock: lock.stem)
def test_a_bundle_is_made_of_what_the_house_is_tested_with(lock):
    whole, found = pins(ROOT / "requirements.lock"), pins(lock)
    assert found.keys() - whole.keys() == set()
    assert all(hashes and hashes <= whole[pin] for pin, hashes in found.items())


def test_there_is_a_lock_for_each_host_and_for_each_kind_of_store():
    assert {lock.stem for lock in LOCKED} == HOSTS.keys() | set(STORES.values())


def test_the_bundles_and_the_extras_ask_for_the_same_but_for_what_a_runtime_brings():
    def extra(name):
        return {canonicalize_name(Requirement(each).name) for each in PROJECT["optional-dependencies"][name]}

    assert asked("lambda") == extra("aws") - {"boto3", "awslambdaric"}
    assert asked("azure") | asked("azure-stores") == extra("azure")
    assert asked("onprem") | asked("redis") == extra("onprem")


def test_what_judges_a_configuration_is_left_out_where_it_comes_compiled():
    judges = {"pydantic", "pydantic-core", "pyyaml", "genai-prices"}
    for host in HOSTS:
        names = {pin.partition("==")[0] for pin in pins(LOCKS / f"{host}.lock")}
        assert names & judges == (judges if host == "onprem" else set())
        assert not names & {"boto3", "awslambdaric", "tiktoken", "pytest"}


# ── configuration ──


@pytest.mark.parametrize(
    ("host", "lines", "locks"),
    [
        ("lambda", "state: dynamodb://buspass\nblobs: s3://buspass-blobs", set()),
        ("lambda", "state: redis://cache.internal", {"redis"}),
        ("onprem", "state: dynamodb://buspass\nblobs: azblob://account/blobs", {"aws-keys", "azure-stores"}),
        ("azure", "state: cosmos://account/db\nblobs: s3://buspass-blobs", {"aws-keys", "azure-stores"}),
        ("azure", "state: sqlite:///state.db", set()),
    ],
)
def test_what_the_stores_need_goes_by_the_configuration(tmp_path, monkeypatch, host, lines, locks):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    cloud = HOSTS[host].cloud
    text = (ROOT / "infra" / "onprem" / "buspass.yaml").read_text("utf-8")
    text = re.sub(r"(?m)^(state|blobs):.*\n", "", text).replace("cloud: onprem", f"cloud: {cloud}")
    file = tmp_path / "buspass.yaml"
    file.write_text(f"{text}\n{lines}\n")
    monkeypatch.setenv("BUSPASS_DATA", "/nonexistent/data")
    assert main(["check", str(file), "--bind", "0.0.0.0", "--compile", str(tmp_path / configuration.NAME)]) == 0
    assert configuration.locks(tmp_path, HOSTS[host], "0.0.0.0") == locks


def test_a_configuration_that_is_wrong_makes_no_bundle(tmp_path):
    file = tmp_path / "buspass.yaml"
    file.write_text("version: 1\nworkflows: {w: {models: [nobody/nothing], budget: {cost: 1}}}\n")
    with pytest.raises(BundleError, match=r"buspass.yaml:2:.*nobody"):
        configuration.compile_into(tmp_path, file, "0.0.0.0")
    assert not (tmp_path / "buspass.json").exists()


# ── bytecode ──


def module(folder, name="said"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text('KNOWN = frozenset({"b", "a", "c"})\n\ndef said():\n    return __file__\n')
    return folder


NEEDS_TARGET = sys.version_info[:2] != (3, 13)
"""Bytecode is made by the version that the hosts run; this suite runs on 3.12 as well."""


def test_bytecode_is_the_same_in_every_build_and_names_no_place_of_its_builder(tmp_path):
    if NEEDS_TARGET:
        with pytest.raises(BundleError, match="is made by that Python"):
            compile_all(module(tmp_path))
        return
    folders = [module(tmp_path / name / "pkg").parent for name in ("one", "another")]
    os.utime(folders[1] / "pkg" / "said.py", (0, 0))
    assert [compile_all(folder) for folder in folders] == [1, 1]
    one, another = ((folder / "pkg" / "__pycache__" / f"said.{TAG}.pyc").read_bytes() for folder in folders)
    assert one == another
    assert b"pkg/said.py" in one
    assert str(tmp_path).encode() not in one
    flags = int.from_bytes(one[4:8], "little")
    assert flags == 0b01  # by hash, unchecked
    moved = tmp_path / "moved"
    shutil.copytree(folders[0], moved)
    (moved / "pkg" / "said.py").write_text("raise RuntimeError('the source was read')")
    spec = importlib.util.spec_from_file_location("said", moved / "pkg" / "said.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    assert loaded.said() == str(moved / "pkg" / "said.py")
    assert loaded.said.__code__.co_filename == str(moved / "pkg" / "said.py")


# ── archives ──


def filled(folder, mode=0o644):
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "z.txt").write_text("z")
    (folder / "a.txt").write_text("a")
    (folder / "bootstrap").write_text("#!/bin/sh\n")
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_file() else 0o700)
    stage.set_modes(folder)
    return folder


def test_an_archive_tells_neither_time_nor_order_nor_umask(tmp_path):
    one, another = filled(tmp_path / "one"), filled(tmp_path / "another", 0o600)
    os.utime(another / "a.txt", (0, 0))
    for folder in (one, another):
        archive.pack(folder, folder.with_suffix(".zip"))
    assert one.with_suffix(".zip").read_bytes() == another.with_suffix(".zip").read_bytes()
    assert archive.digest(one) == archive.digest(another)
    entries = zipfile.ZipFile(one.with_suffix(".zip")).infolist()
    assert [entry.filename for entry in entries] == ["a.txt", "b/z.txt", "bootstrap"]
    assert {entry.date_time for entry in entries} == {archive.TIME}
    assert {entry.filename: oct(entry.external_attr >> 16) for entry in entries} == {
        "a.txt": "0o100644",
        "b/z.txt": "0o100644",
        "bootstrap": "0o100755",
    }
    (another / "a.txt").write_text("A")
    assert archive.digest(one) != archive.digest(another)


def test_native_code_of_another_machine_makes_no_bundle(tmp_path):
    (tmp_path / "x.so").write_bytes(b"\x7fELF" + bytes(14) + (183).to_bytes(2, "little"))
    stage.check_machine(tmp_path, "arm64")
    with pytest.raises(BundleError, match=r"x\.so is not native code of x86_64"):
        stage.check_machine(tmp_path, "x86_64")


# ── licences ──


def package(lib, name, *lines):
    folder = lib / f"{name}-1.0.dist-info"
    (folder / "licenses").mkdir(parents=True)
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, ""]))
    (folder / "licenses" / "LICENSE").write_text(f"The text of {name}.\n")


def test_every_part_has_a_licence_and_what_it_needs_on_its_platform(tmp_path):
    package(tmp_path, "one", "License-Expression: MIT", "Requires-Dist: Two[more]", "Requires-Dist: gone; extra == 'x'")
    package(
        tmp_path,
        "two",
        "License: see below",
        "Classifier: License :: OSI Approved :: Apache Software License",
        "Requires-Dist: three; extra == 'more'",
        "Requires-Dist: one; sys_platform == 'win32'",
    )
    package(tmp_path, "three", "License: MIT License")
    one, three, two = parts.parts(tmp_path, "arm64")
    assert [part.licence for part in (one, two, three)] == ["MIT", "Apache-2.0", "MIT"]
    assert [part.needs for part in (one, two, three)] == [("two",), ("three",), ()]
    assert sbom.licences([one, two]).count("The text of") == 2
    package(tmp_path, "four", "License: do as you like")
    with pytest.raises(BundleError, match="four says its licence as 'do as you like'"):
        parts.parts(tmp_path, "arm64")
