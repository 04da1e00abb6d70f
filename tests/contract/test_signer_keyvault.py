"""Azure Key Vault behind the signer port: a key on the simulated vault, a token by Microsoft's own identity client."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from buspass.errors import ConfigError
from buspass.http.adapters import adapter
from buspass.ports.signer import SignerUnavailable
from buspass.testing import keyvault_server
from buspass.testing.keyvault_server import KeyVaultServer, Trouble, serving_key_vault
from buspass_azure import keyvault

THROTTLED = Trouble(status=429, code="Throttled")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Vault and client share one process: on a busy machine neither may judge the other by its watch."""
    monkeypatch.setattr(keyvault, "CONNECT_SECONDS", 120)
    monkeypatch.setattr(keyvault, "ANSWER_SECONDS", 120)
    monkeypatch.setattr(keyvault, "PAUSE", 0)


@pytest.fixture
async def vault(monkeypatch):
    async with serving_key_vault(KeyVaultServer()) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
async def signer(vault, tmp_path):
    vault.add("domain")
    opened = await open_at(vault, tmp_path)
    vault.asked.clear()
    yield opened
    await opened.close()


async def open_at(vault, tmp_path, key="domain"):
    return await adapter("signer", "keyvault")(
        f"keyvault://a-vault/{key}?endpoint={vault.url}", data=tmp_path, create=True
    )


async def test_a_signature_is_the_jose_form_that_the_published_key_verifies(signer):
    key = jwt.PyJWK(dict(signer.jwk), algorithm=signer.algorithm)
    signature = await signer.sign(b"data")
    assert len(signature) == 64
    assert key.Algorithm.verify(b"data", key.key, signature)
    assert not key.Algorithm.verify(b"other data", key.key, signature)
    assert set(signer.jwk) == {"crv", "kty", "x", "y", "kid", "alg", "use"}


async def test_one_token_of_the_managed_identity_serves_all_calls(vault, signer):
    for _ in range(3):
        await signer.sign(b"data")
    assert len(vault.tokens) == 1
    assert {path.rpartition("/")[2] for _, path in vault.asked} == {"sign"}


async def test_a_rotated_key_is_used_after_the_next_start_and_the_published_one_until_then(vault, signer, tmp_path):
    before = dict(signer.jwk)
    vault.add("domain")
    key = jwt.PyJWK(before, algorithm="ES256")
    assert key.Algorithm.verify(b"data", key.key, await signer.sign(b"data"))
    again = await open_at(vault, tmp_path)
    assert again.jwk["kid"] != before["kid"]
    await again.close()


async def test_a_version_can_be_named(vault, tmp_path):
    first = vault.add("domain")
    vault.add("domain")
    signer = await open_at(vault, tmp_path, f"domain/{first}")
    await signer.sign(b"data")
    assert vault.asked[-1] == ("POST", f"/keys/domain/{first}/sign")
    await signer.close()


@pytest.mark.parametrize("trouble", [THROTTLED, Trouble(status=503), Trouble()], ids=["429", "503", "lost"])
async def test_what_passes_by_is_tried_a_second_time_and_no_third(vault, signer, trouble):
    vault.meet(trouble)
    assert len(await signer.sign(b"data")) == 64
    vault.asked.clear()
    vault.meet(trouble, trouble, trouble)
    with pytest.raises(SignerUnavailable):
        await signer.sign(b"data")
    assert len(vault.asked) == 2
    vault._troubles.clear()


async def test_a_key_that_was_disabled_signs_nothing_and_is_not_asked_twice(vault, signer):
    (version,) = vault.keys["domain"].values()
    version.enabled = False
    with pytest.raises(SignerUnavailable, match=r"403 \(Forbidden"):
        await signer.sign(b"data")
    assert len(vault.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"kid": "https://v/keys/domain/other", "value": "A" * 86},
        {"kid": "{kid}", "value": "AAAA"},
        {"kid": "{kid}", "value": 2},
        {"kid": 1, "value": "A" * 86},
    ],
)
async def test_an_answer_that_is_no_signature_of_this_key_is_none(signer, monkeypatch, answer):
    def mistaken(_found, kid, _wanted):
        return keyvault_server._json(200, {name: kid if value == "{kid}" else value for name, value in answer.items()})

    monkeypatch.setattr(keyvault_server, "_signed", mistaken)
    with pytest.raises(SignerUnavailable, match="an answer that is no signature"):
        await signer.sign(b"data")


@pytest.mark.parametrize(
    ("properties", "says"),
    [
        (None, r"404 \(KeyNotFound"),
        ({"curve": ec.SECP384R1()}, "EC key of P-384"),
        ({"operations": ("verify",)}, "may not sign"),
        ({"enabled": False}, "may not sign"),
    ],
)
async def test_a_key_that_is_no_use_is_refused_at_the_start(vault, tmp_path, properties, says):
    if properties is not None:
        vault.add("domain", **properties)
    with pytest.raises(ConfigError, match=says):
        await open_at(vault, tmp_path)


async def test_an_identity_that_the_platform_does_not_know_is_refused_at_the_start(vault, tmp_path, monkeypatch):
    vault.add("domain")
    monkeypatch.setenv("AZURE_CLIENT_ID", "another")
    with pytest.raises(ConfigError, match="signer keyvault://"):
        await open_at(vault, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "keyvault://v",
        "keyvault://vault",
        "keyvault://vault/key/old",
        "keyvault://vault/key?endpoint=http://elsewhere",
        "keyvault://vault/key?key=K",
        "keyvault://vault/key?region=x",
        "keyvault://vault/key#x",
        "kms://vault/key",
    ],
)
async def test_another_url_is_refused(tmp_path, url):
    with pytest.raises(ConfigError, match="signer"):
        await keyvault.open(url, data=tmp_path, create=True)


@pytest.mark.parametrize(
    ("endpoint", "scope"),
    [
        ("https://a.vault.azure.net", "https://vault.azure.net/.default"),
        ("https://a.vault.azure.cn", "https://vault.azure.cn/.default"),
        ("http://127.0.0.1:1", "https://vault.azure.net/.default"),
    ],
)
def test_a_token_is_for_the_vaults_of_the_same_cloud(endpoint, scope):
    assert keyvault._scope(endpoint) == scope
