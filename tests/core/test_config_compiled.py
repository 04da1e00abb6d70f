"""A compiled configuration is what buspass.yaml means, wherever its bundle lies, and nothing that was altered."""

import json
from pathlib import Path

import pytest

from buspass.cli import main
from buspass.config import compiled
from buspass.config.build import load
from buspass.errors import ConfigError
from buspass.http import start
from buspass.model import Limits

LIMITS = Limits(request_bytes=6_000_000, response_bytes=6_000_000, first_byte=60, total=60)
ROOT = Path(__file__).parents[2]
FILES = [ROOT / "examples" / "returns" / "buspass.yaml", *sorted((ROOT / "tests" / "data" / "domain").glob("*.yaml"))]


def environ(folder):
    return {"BUSPASS_DATA": str(folder), "HOME": str(folder)}


def written(file, data):
    settings = load(file, environ=environ(data))
    return settings, compiled.written(settings, folder=str(file.parent), data=str(data), loopback=True)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_is_read_is_what_was_written(file, tmp_path):
    settings, document = written(file, tmp_path)
    assert compiled.is_compiled(document)
    assert compiled.read(document, file.with_name("out.json"), environ(tmp_path), "127.0.0.1") == settings


def test_stores_in_the_configurations_folder_and_in_buspass_data_move_with_them(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    file = here / "buspass.yaml"
    file.write_text(
        "version: 1\nstate: sqlite:///kept/state.db?durability=process\n"
        "workflows: {w: {models: [openai/gpt-5-mini], budget: {cost: 1}}}\n"
    )
    _, document = written(file, here / "data")
    (host,) = compiled.read(document, there / "c.json", environ(tmp_path / "elsewhere"), "localhost").hosts.values()
    assert host.state == f"sqlite:///{there}/kept/state.db?durability=process"
    assert host.blobs == f"file:///{tmp_path}/elsewhere/blobs"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("127.0.0.1", "127.0.0.2"), "was altered"),
        (lambda text: text[:-9], "cut short"),
        (lambda text: text.replace('"buspass_compiled":1', '"buspass_compiled":2'), "another version"),
        (lambda text: text.replace('"loopback":true', '"loopback":false'), "was altered"),
    ],
)
def test_what_was_altered_is_refused(tmp_path, change, says):
    _, document = written(FILES[0], tmp_path)
    altered = change(document.decode())
    assert altered != document.decode()
    with pytest.raises(ConfigError, match=says):
        compiled.read(altered.encode(), FILES[0], environ(tmp_path), "127.0.0.1")


def test_a_revision_that_is_not_its_settings_own_is_refused(tmp_path):
    _, document = written(FILES[0], tmp_path)
    whole = json.loads(document)
    del whole["digest"]
    whole["revision"] = "0" * 16
    forged = json.dumps({**whole, "digest": compiled._digest(whole)}, separators=(",", ":")).encode()
    with pytest.raises(ConfigError, match="revision"):
        compiled.read(forged, FILES[0], environ(tmp_path), "127.0.0.1")


def test_what_was_compiled_for_loopback_serves_nobody_else(tmp_path):
    _, document = written(FILES[0], tmp_path)
    with pytest.raises(ConfigError, match="loopback"):
        compiled.read(document, FILES[0], environ(tmp_path), "0.0.0.0")


def test_check_compiles_what_it_accepts_and_nothing_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BUSPASS_DATA", str(tmp_path))
    out = tmp_path / "out.json"
    assert main(["check", str(FILES[0]), "--compile", str(out)]) == 0
    found = compiled.read(out.read_bytes(), out, environ(tmp_path), "127.0.0.1")
    assert f"revision {found.revision}" in capsys.readouterr().out
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 2\n")
    assert main(["check", str(wrong), "--compile", str(tmp_path / "never.json")]) == 2
    assert not (tmp_path / "never.json").exists()
    assert main(["check", str(FILES[0]), "--compile", str(tmp_path / "no" / "folder.json")]) == 2


REACHABLE = """\
version: 1
issuer: https://gateway.example.com
domain_key: {secret: A_DOMAIN_KEY}
hosts: {aws: {url: 'https://gateway.example.com', cloud: aws, region: eu-central-1}}
workflows: {w: {models: [openai/gpt-5-mini], budget: {cost: 1}}}
identity: [{name: all, issuer: 'https://login.example.com', audience: 'api://buspass', claims: {agent: azp}}]
"""


async def test_what_was_compiled_for_others_to_reach_makes_no_keys_wherever_it_listens(tmp_path, monkeypatch):
    """Lambda and Functions hand their requests over on no socket: the bind they are started with says nothing."""
    file, out, data = tmp_path / "buspass.yaml", tmp_path / "buspass.json", tmp_path / "data"
    file.write_text(REACHABLE)
    monkeypatch.setenv("BUSPASS_DATA", str(data))
    assert main(["check", str(file), "--bind", "0.0.0.0", "--compile", str(out)]) == 0
    environ = {"BUSPASS_CONFIG": str(out), "BUSPASS_DATA": str(data), "A_DOMAIN_KEY": "5a" * 32}
    with pytest.raises(ConfigError, match="there is no such file; off loopback it is never made by itself"):
        await start(environ, LIMITS, bind="127.0.0.1")
    assert not data.exists()
    assert main(["check", str(file), "--compile", str(out)]) == 0
    application = await start(environ, LIMITS, bind="127.0.0.1")
    await application.close()
    assert (data / "operator.key").exists()
