"""The signer port and the keys of a data directory, on files."""

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import buspass_onprem.signer as signers
from buspass.errors import ConfigError
from buspass.ports.secrets import SecretMissing
from buspass.testing.signer_contract import SignerContract
from buspass_onprem.secrets import HostSecrets


class TestSigner(SignerContract):
    @pytest.fixture
    async def signer(self, tmp_path):
        return await signers.open("file:", data=tmp_path, create=True)

    async def test_a_key_is_made_once_for_the_owner_alone_and_found_again(self, tmp_path):
        first = await signers.open("file:", data=tmp_path, create=True)
        again = await signers.open("file:", data=tmp_path, create=False)
        assert first.jwk == again.jwk
        path = tmp_path / "keys" / "signer.pem"
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert _names(path.parent) == ["signer.pem"]

    async def test_paths_are_absolute_with_four_slashes_and_in_the_data_directory_with_three(self, tmp_path):
        await signers.open(f"file:///{tmp_path}/elsewhere.pem", data=tmp_path / "data", create=True)
        await signers.open("file:///near.pem", data=tmp_path / "data", create=True)
        assert (tmp_path / "elsewhere.pem").exists()
        assert (tmp_path / "data" / "near.pem").exists()

    def test_processes_that_start_together_have_one_key(self, tmp_path):
        command = [sys.executable, "-c", _START, str(tmp_path)]
        starting = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
        found = {process.communicate(timeout=120)[0] for process in starting}
        assert [process.returncode for process in starting] == [0] * 6
        assert len(found) == 1
        assert _names(tmp_path / "keys") == ["domain.key", "signer.pem"]


_START = """
import asyncio, pathlib, sys
import buspass_onprem.signer as signers

async def start(data):
    signer = await signers.open("file:", data=data, create=True)
    domain = await signers.domain_key(data, create=True)
    print(signer.jwk["kid"], domain.derive("journal-mac").hex(), await signers.operator_key(data, create=True))

asyncio.run(start(pathlib.Path(sys.argv[1])))
"""


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (None, 0o600, "there is no such file"),
        (b"", 0o600, "no unencrypted PEM"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "no unencrypted PEM"),
        (_pem(ec.generate_private_key(ec.SECP384R1())), 0o600, "not of P-256"),
        (_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)), 0o600, "not of P-256"),
        (_pem(ec.generate_private_key(ec.SECP256R1())), 0o644, "everybody may read it"),
    ],
)
async def test_a_key_that_can_not_be_used_is_refused_with_its_path(tmp_path, content, mode, says):
    path = tmp_path / "keys" / "signer.pem"
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match=says) as caught:
        await signers.open("file:", data=tmp_path, create=False)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("url", ["kms://alias/x", "file://host/path", "file:////a?b=c", "signer.pem"])
async def test_another_scheme_is_refused(tmp_path, url):
    with pytest.raises(ConfigError, match="allowed are file:"):
        await signers.open(url, data=tmp_path, create=True)


async def test_the_domain_key_and_the_operators_key_are_made_once(tmp_path):
    made = await signers.domain_key(tmp_path, create=True)
    assert (await signers.domain_key(tmp_path, create=False)).derive("jwk-mac") == made.derive("jwk-mac")
    key = await signers.operator_key(tmp_path, create=True)
    assert key.startswith("bpo_")
    assert await signers.operator_key(tmp_path, create=False) == key
    for path in (tmp_path / "keys" / "domain.key", tmp_path / "operator.key"):
        assert path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "operator.key").write_text("bpo_short")
    with pytest.raises(ConfigError, match="no bpo_ key"):
        await signers.operator_key(tmp_path, create=True)
    (tmp_path / "keys" / "domain.key").write_bytes(b"\xff" * 32)
    with pytest.raises(ConfigError, match="no text"):
        await signers.domain_key(tmp_path, create=True)


async def test_a_missing_key_off_loopback_is_never_made(tmp_path):
    for key in (signers.domain_key, signers.operator_key):
        with pytest.raises(ConfigError, match="there is no such file"):
            await key(tmp_path, create=False)
    assert _names(tmp_path) == []


class TestSecrets:
    async def test_a_variable_comes_before_a_file_and_a_line_break_at_the_end_is_not_part(self, tmp_path):
        (tmp_path / "A").write_text("from file\n")
        (tmp_path / "B").write_text("from file\r\n")
        secrets = HostSecrets({"A": "from variable", "BUSPASS_SECRETS": str(tmp_path)})
        assert await secrets.get("A") == "from variable"
        assert await secrets.get("B") == "from file"

    async def test_a_variable_is_known_at_once_after_it_was_got_and_only_as_it_is_now(self, tmp_path):
        (tmp_path / "B").write_text("from file")
        environ = {"A": "one\r\n", "BUSPASS_SECRETS": str(tmp_path)}
        secrets = HostSecrets(environ)
        assert secrets.at_once("A") is None
        assert await secrets.get("A") == secrets.at_once("A") == "one"
        environ["A"] = "two"
        assert secrets.at_once("A") == "two"
        for nothing in ("", "\n"):
            environ["A"] = nothing
            assert secrets.at_once("A") is None
        del environ["A"]
        assert secrets.at_once("A") is None
        assert await secrets.get("B") == "from file"
        assert secrets.at_once("B") is None

    async def test_a_rotated_file_is_seen_within_a_minute(self, tmp_path):
        now = [0.0]
        secrets = HostSecrets({"BUSPASS_SECRETS": str(tmp_path)}, monotonic=lambda: now[0])
        (tmp_path / "A").write_text("old")
        assert await secrets.get("A") == "old"
        (tmp_path / "A").write_text("new")
        assert await secrets.get("A") == "old"
        now[0] = 61
        assert await secrets.get("A") == "new"

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("MISSING", "No such file"),
            ("EMPTY", "is empty"),
            ("BINARY", "not UTF-8"),
            ("LARGE", "larger than"),
            ("FOLDER", "Is a directory"),
            ("../A", "names are"),
            (".hidden", "names are"),
            ("", "names are"),
        ],
    )
    async def test_what_is_not_there_is_named_and_no_value_is_told(self, tmp_path, name, says):
        (tmp_path / "EMPTY").write_text("\n")
        (tmp_path / "BINARY").write_bytes(b"\xff\xfe")
        (tmp_path / "LARGE").write_text("x" * 70_000)
        (tmp_path / "FOLDER").mkdir()
        (tmp_path.parent / "A").write_text("outside")
        with pytest.raises(SecretMissing, match=says) as caught:
            await HostSecrets({"BUSPASS_SECRETS": str(tmp_path)}).get(name)
        assert "xxx" not in str(caught.value)

    async def test_without_a_directory_only_variables_are_asked(self):
        with pytest.raises(SecretMissing, match="BUSPASS_SECRETS names no directory"):
            await HostSecrets({}).get("A")
        with pytest.raises(SecretMissing, match="is empty"):
            await HostSecrets({"A": ""}).get("A")
