"""Requests to AWS: signed as botocore signs them, with botocore's keys, to the right address, and closed in peace."""

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace

import pytest
from aws_answers import Answers, fine
from aws_servers import KEYS
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoKeys
from botocore.session import Session

from buspass.http.adapters import opened
from buspass.ports.outbound import NotSent
from buspass_aws import credentials, dynamodb
from buspass_aws.client import AwsClient, address
from buspass_aws.credentials import Credentials, CredentialsMissing, from_environment
from buspass_aws.signing import Keys, Target, escaped, query_string, signed

FORM = "dynamodb://TABLE?region=REGION"
ODD = "aZ09-._~:/?#[]@!$&'()*+,;=% é☃\t\""


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


# ── signatures ──


@pytest.mark.parametrize("service", ["dynamodb", "s3"])
def test_signatures_are_botocores(service, monkeypatch):
    random = Random(service)
    for _ in range(200):
        text = "".join(random.choices(ODD, k=random.randint(0, 12)))
        keys = Keys(access="AKID", secret=f"s{text}", token=random.choice(["", "a/token=="]))
        now = datetime(2026, random.randint(1, 12), random.randint(1, 28), random.randint(0, 23), 5, 9, tzinfo=UTC)
        path = f"/{escaped(text, slash=True)}" if service == "s3" else "/"
        query = query_string({"list-type": "2", "prefix": text, "a": text} if random.random() < 0.7 else {})
        headers = {
            "x-amz-target": "X.Put",
            "content-type": "application/x-amz-json-1.0",
            "x-odd": f"  a   b{len(text)} ",
        }
        body = text.encode()
        target = Target(service=service, region="eu-central-1", host="127.0.0.1:8000")
        mine = signed(keys, target, now, method="POST", path=path, query=query, headers=headers, body=body)
        assert mine["authorization"] == boto_signature(service, keys, now, path, query, headers, body, monkeypatch)


def boto_signature(service, keys, now, path, query, headers, body, monkeypatch):
    url = f"http://127.0.0.1:8000{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method="POST", url=url, headers=dict(headers), data=body)
    if service == "s3":
        request.context["payload_signing_enabled"] = True
        request.context["client_config"] = None
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: now.replace(tzinfo=None), raising=False)
    signer = (S3SigV4Auth if service == "s3" else SigV4Auth)(
        BotoKeys(keys.access, keys.secret, keys.token or None), service, "eu-central-1"
    )
    signer.add_auth(request)
    return request.headers["Authorization"]


def test_a_key_is_never_shown_with_its_secret():
    assert "hidden" not in repr(Keys(access="AKID", secret="hidden", token="hidden"))


# ── keys ──


@pytest.mark.parametrize(
    "given",
    [
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"},
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"},
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t", "AWS_SECURITY_TOKEN": "u"},
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s", "AWS_PROFILE": "other"},
        {},
    ],
)
def test_the_environment_is_read_as_botocore_reads_it(given, monkeypatch, tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[other]\naws_access_key_id = o\naws_secret_access_key = p\n")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found, mine = Session().get_credentials(), from_environment(os.environ)
    if found is None:
        assert mine is None
    else:
        assert (mine.access, mine.secret, mine.token) == (found.access_key, found.secret_key, found.token or "")


async def test_a_profile_is_botocores_business(monkeypatch, tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[work]\naws_access_key_id = o\naws_secret_access_key = p\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert await Credentials().keys() == Keys(access="o", secret="p")


async def test_who_has_no_keys_is_told_before_anything_is_sent():
    async with Answers() as server:
        client = AwsClient("dynamodb", "eu-central-1", server.url)
        with pytest.raises(NotSent, match="no keys to AWS"):
            await client.send("POST", "/", headers={}, timeout=1)
        await client.close()
    assert server.asked == []


class Lent:
    """Keys that go stale, as a role's do."""

    def __init__(self, *tokens):
        self.tokens, self.asked = list(tokens), 0

    def refresh_needed(self):
        return bool(self.tokens)

    def get_frozen_credentials(self):
        self.asked += 1
        if self.tokens and self.tokens.pop(0) is None:
            raise OSError("the metadata service is away")
        return SimpleNamespace(access_key="a", secret_key="s", token=f"t{self.asked}")


async def test_keys_that_are_lent_are_renewed(monkeypatch):
    lent = Lent("t1", None, "t3")
    monkeypatch.setattr(credentials, "_look", lambda: lent)
    keys = Credentials({})
    assert (await keys.keys()).token == "t1"
    with pytest.raises(CredentialsMissing, match="metadata service is away"):
        await keys.keys()
    assert (await keys.keys()).token == "t3"


async def test_keys_that_aws_calls_expired_are_looked_for_anew(monkeypatch):
    looks = []
    monkeypatch.setattr(credentials, "_look", lambda: looks.append(1) or Lent())
    keys = Credentials({})
    for _ in range(3):
        await keys.keys()
    assert len(looks) == 1
    keys.renew()
    await keys.keys()
    assert len(looks) == 2


# ── addresses ──


def test_urls(monkeypatch):
    assert address("dynamodb://t.1?region=eu-central-1", FORM).name == "t.1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    assert address("dynamodb://t", FORM).region == "us-east-1"
    monkeypatch.setenv("AWS_REGION", "ap-southeast-2")
    assert address("dynamodb://t", FORM).region == "ap-southeast-2"
    assert (
        address("dynamodb://t?region=us-gov-west-1&endpoint=http://[::1]:8000/", FORM).endpoint == "http://[::1]:8000"
    )


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("dynamodb://table", "is no region"),
        ("dynamodb://table?region=Frankfurt", "is no region"),
        ("dynamodb://?region=eu-central-1", "allowed is dynamodb://TABLE"),
        ("dynamodb://table/x?region=eu-central-1", "allowed is dynamodb://TABLE"),
        ("dynamodb://user@table?region=eu-central-1", "allowed is dynamodb://TABLE"),
        ("dynamodb://ab?region=eu-central-1", "3-255"),
        ("dynamodb://table?region=eu-central-1&region=us-east-1", "each option once"),
        ("dynamodb://table?region=eu-central-1&retries=9", "'retries' is no option"),
        ("dynamodb://table?region=eu-central-1#x", "allowed is dynamodb://TABLE"),
        ("dynamodb://table?region=eu-central-1&endpoint=http://10.0.0.1:8000", "on this machine"),
        ("dynamodb://table?region=eu-central-1&endpoint=https://host/path", "endpoint"),
        ("dynamodb://table?region=eu-central-1&endpoint=ftp://127.0.0.1", "endpoint"),
    ],
)
async def test_a_bad_url_is_named(url, why):
    with pytest.raises(ValueError, match=why):
        await dynamodb.open(url)


async def test_a_host_opens_it_by_its_scheme_and_asks_nothing():
    state = await opened("state", "dynamodb://table?region=eu-central-1")
    assert state._client.base == "https://dynamodb.eu-central-1.amazonaws.com"
    await state.close()
    china = await opened("state", "dynamodb://table?region=cn-north-1")
    assert china._client.base == "https://dynamodb.cn-north-1.amazonaws.com.cn"
    await china.close()


# ── a client's life ──


async def test_close_waits_for_what_is_under_way(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    async with Answers(fine(), fine()) as server:
        client = AwsClient("dynamodb", "eu-central-1", server.url)
        goes_on = asyncio.Event()

        async def call():
            async with client.working():
                first = await client.send("POST", "/", headers={}, timeout=60)
                await goes_on.wait()
                return first.status, (await client.send("POST", "/", headers={}, timeout=60)).status

        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        closing = asyncio.gather(client.close(), client.close())
        while len(server.asked) < 1:
            await asyncio.sleep(0.01)
        assert not closing.done()
        goes_on.set()
        await closing
        assert await task == (200, 200)
        with pytest.raises(NotSent, match="closed"):
            async with client.working():
                pass


async def test_a_cancelled_caller_is_cancelled_even_as_its_answer_comes(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    async with Answers(*[fine()] * 30) as server:
        client = AwsClient("dynamodb", "eu-central-1", server.url)
        for n in range(20):
            task = asyncio.create_task(client.send("POST", "/", headers={}, timeout=60))
            await asyncio.sleep(n / 10_000)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
        await client.close()


def test_after_a_fork_the_store_says_so():
    script = """
import asyncio, os
from buspass.ports.state import Unavailable
from buspass_aws import dynamodb
state = asyncio.run(dynamodb.open("dynamodb://table?region=eu-central-1"))
async def tried():
    try:
        await state.read("t", "k")
    except Unavailable as error:
        print(error, flush=True)
    await state.close()
if os.fork() == 0:
    asyncio.run(tried())
    os._exit(0)
os.wait()
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "before a fork" in done.stdout


def test_a_function_imports_neither_boto3_nor_botocore_nor_httpx():
    script = (
        "import asyncio, sys; from buspass_aws import dynamodb;"
        "asyncio.run(dynamodb.open('dynamodb://table?region=eu-central-1'));"
        "print(*({'boto3', 'botocore', 'httpx', 'urllib3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
