"""A signing key in KMS, and secrets in Secrets Manager and Parameter Store: on the stand-in, and on AWS's own refusals."""

import asyncio
import base64
import json

import pytest
from aws_answers import CLOSES, Answers, error, fine
from aws_servers import KEYS, asked
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from buspass.errors import ConfigError
from buspass.http.adapters import secrets_of
from buspass.ports.secrets import SecretMissing
from buspass.ports.signer import SignerUnavailable
from buspass.testing.signer_contract import SignerContract
from buspass_aws import kms, secrets

ARN = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def der(curve=ec.SECP256R1):
    public = ec.generate_private_key(curve()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return base64.b64encode(public.public_bytes(serialization.Encoding.DER, form)).decode()


def public_key(**changed):
    known = {
        "KeyId": ARN,
        "KeySpec": "ECC_NIST_P256",
        "KeyUsage": "SIGN_VERIFY",
        "SigningAlgorithms": ["ECDSA_SHA_256"],
        "PublicKey": der(),
    }
    return fine(**{**known, **changed})


async def opened(server, key="alias/buspass"):
    url = f"kms://{key}?region=eu-central-1&endpoint={server.url}"
    return await kms.open(url, data=None, create=False)


# ── on the stand-in ──


@pytest.mark.verify
class TestContract(SignerContract):
    many = 300

    @pytest.fixture
    async def signer(self, ministack):
        made = await asked(ministack.url, "kms", "CreateKey", KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        await asked(
            ministack.url,
            "kms",
            "CreateAlias",
            AliasName=f"alias/{made['KeyMetadata']['KeyId']}",
            TargetKeyId=made["KeyMetadata"]["KeyId"],
        )
        signer = await opened(ministack, f"alias/{made['KeyMetadata']['KeyId']}")
        yield signer
        await signer.close()


@pytest.mark.verify
async def test_a_key_that_is_none_of_es256_is_refused_before_the_host_comes_up(ministack):
    for spec, usage in (("RSA_2048", "SIGN_VERIFY"), ("ECC_NIST_P384", "SIGN_VERIFY")):
        made = await asked(ministack.url, "kms", "CreateKey", KeySpec=spec, KeyUsage=usage)
        with pytest.raises(ConfigError, match=f"a key of {spec} .*ECC_NIST_P256"):
            await opened(ministack, made["KeyMetadata"]["KeyId"])
    with pytest.raises(ConfigError, match="make the key, and the alias"):
        await opened(ministack, "alias/nobody")


@pytest.mark.verify
async def test_secrets_are_found_by_their_names_below_a_prefix(ministack):
    await asked(ministack.url, "secretsmanager", "CreateSecret", Name="cage/A_KEY", SecretString="of the manager\n")
    await asked(ministack.url, "ssm", "PutParameter", Name="/cage/A_KEY", Value="of ssm", Type="SecureString")
    for scheme, value in (("secretsmanager", "of the manager"), ("ssm", "of ssm")):
        environ = {"BUSPASS_SECRETS": f"{scheme}://cage?region=eu-central-1&endpoint={ministack.url}", "MINE": "here"}
        store = secrets_of(environ)
        assert await store.get("A_KEY") == value
        assert await store.get("MINE") == "here"
        with pytest.raises(SecretMissing, match=rf"{scheme} /?cage/NONE: 400 \w*NotFound"):
            await store.get("NONE")
        await store.close()


# ── on what AWS documents ──


async def test_an_alias_is_asked_once_and_the_key_behind_it_signs_from_then_on():
    signature = base64.b64encode(
        bytes.fromhex("3006020101020102")  # DER of R=1, S=2
    ).decode()
    async with Answers(public_key(), fine(Signature=signature), fine(Signature=signature)) as server:
        signer = await opened(server)
        assert await signer.sign(b"x") == (1).to_bytes(32) + (2).to_bytes(32)
        await signer.sign(b"y")
        await signer.close()
    assert [body["KeyId"] for body in server.bodies] == ["alias/buspass", ARN, ARN]
    assert {headers["x-amz-target"] for _, headers, _ in server.asked} == {
        "TrentService.GetPublicKey",
        "TrentService.Sign",
    }
    assert server.bodies[1]["MessageType"] == "DIGEST"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (public_key(KeySpec="RSA_2048", SigningAlgorithms=["RSASSA_PSS_SHA_256"]), "a key of RSA_2048"),
        (public_key(KeyUsage="KEY_AGREEMENT"), "for KEY_AGREEMENT"),
        (public_key(PublicKey=der(ec.SECP384R1)), "needs one of ECC_NIST_P256"),
        (public_key(PublicKey="AAAA"), "can't be read"),
        (public_key(PublicKey="é"), "can't be read"),
        (error(400, "AccessDeniedException", "not authorized"), "needs kms:GetPublicKey and kms:Sign"),
        (error(400, "NotFoundException", "no such"), "make the key, and the alias"),
        ((403, b"<html>"), "403 without a code"),
        ((200, b"[]"), "an answer that can't be read"),
    ],
)
async def test_a_key_that_can_not_be_used_is_refused_with_what_to_do(answer, says):
    async with Answers(answer) as server:
        with pytest.raises(ConfigError, match=says):
            await opened(server)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([error(400, "DisabledException", "is disabled")], "is disabled"),
        ([error(400, "AccessDeniedException", "no")], "AccessDenied"),
        ([error(500, "KMSInternalException")] * 3, "KMSInternalException"),
        ([CLOSES] * 3, "KMS key"),
        ([fine(Signature="AAAA")], "KMS key"),
        ([fine()], "Signature"),
    ],
)
async def test_what_is_not_signed_is_said_to_be_so(monkeypatch, script, says):
    monkeypatch.setattr("buspass_aws.client._PAUSE", 0.0)
    async with Answers(public_key(), *script) as server:
        signer = await opened(server)
        with pytest.raises(SignerUnavailable, match=says):
            await signer.sign(b"data")
        await signer.close()


async def test_a_busy_service_is_asked_again():
    signature = base64.b64encode(bytes.fromhex("3006020101020102")).decode()
    busy = error(400, "ThrottlingException", "slow down")
    async with Answers(public_key(), busy, (503, b""), fine(Signature=signature)) as server:
        signer = await opened(server)
        assert len(await signer.sign(b"data")) == 64
        await signer.close()


@pytest.mark.parametrize(
    "url",
    ["kms://buspass", "kms://alias/", "kms://alias/x?region=nowhere", "kms://alias/x?colour=red", "kms://key/x", ARN],
)
async def test_a_url_that_names_no_key_is_refused(monkeypatch, url):
    with pytest.raises(ConfigError):
        await kms.open(url, data=None, create=False)


async def test_an_arn_brings_its_region(monkeypatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    async with Answers(public_key()) as server:
        signer = await kms.open(f"kms://{ARN}?endpoint={server.url}", data=None, create=False)
        await signer.close()
    assert "/eu-central-1/kms/aws4_request" in server.asked[0][1]["authorization"]


async def test_a_secret_is_asked_for_once_in_four_minutes_however_many_want_it():
    now = [0.0]
    async with Answers(fine(SecretString="old"), fine(SecretString="new")) as server:
        environ = {"BUSPASS_SECRETS": f"secretsmanager://a/b?region=eu-central-1&endpoint={server.url}"}
        store = secrets.open(environ)
        store._monotonic = lambda: now[0]
        assert store.at_once("K") is None
        assert set(await asyncio.gather(*(store.get("K") for _ in range(5)))) == {"old"}
        assert store.at_once("K") == "old"
        now[0] = secrets.KEPT + 1
        assert store.at_once("K") is None
        assert await store.get("K") == store.at_once("K") == "new"
        environ["K"] = "of the variable"
        assert store.at_once("K") is None
        assert await store.get("K") == "of the variable"
        await store.close()
    assert [body["SecretId"] for body in server.bodies] == ["a/b/K", "a/b/K"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (error(400, "ResourceNotFoundException", "can't find"), "ResourceNotFoundException"),
        (error(400, "AccessDeniedException", "no"), "needs secretsmanager:GetSecretValue"),
        (fine(SecretBinary="AAAA"), "holds no text"),
        (fine(SecretString=""), "is empty"),
        (fine(SecretString="\n"), "is empty"),
    ],
)
async def test_a_secret_that_is_not_there_is_named_with_where_it_was_looked_for(answer, says):
    async with Answers(answer) as server:
        environ = {"BUSPASS_SECRETS": f"secretsmanager://cage?region=eu-central-1&endpoint={server.url}"}
        store = secrets.open(environ)
        with pytest.raises(SecretMissing, match=says) as caught:
            await store.get("A_KEY")
        await store.close()
    assert "A_KEY" in str(caught.value)


@pytest.mark.parametrize("url", ["secretsmanager://", "ssm://a b?region=eu-central-1", "vault://x", "ssm://a?x=1"])
def test_a_store_of_secrets_that_does_not_exist_is_refused(url):
    with pytest.raises(ConfigError):
        secrets_of({"BUSPASS_SECRETS": url})


async def test_an_odd_name_is_nobodys():
    store = secrets.open({"BUSPASS_SECRETS": "ssm://cage?region=eu-central-1"})
    for name in ("../A", ".hidden", "", json.dumps({})):
        with pytest.raises(SecretMissing, match="names are"):
            await store.get(name)
    await store.close()
