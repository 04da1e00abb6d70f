"""S3 keeps the contract of blobs on a real stand-in, and says what is the matter on the answers that AWS documents."""

import uuid

import pytest
from aws_answers import CLOSES, CUT, RESETS, Answers
from aws_servers import KEYS, create_bucket

from buspass.http.adapters import opened
from buspass.ports.blobs import BlobConflict, BlobsUnavailable
from buspass.testing.blobs_contract import BlobsContract
from buspass.testing.serve import free_port
from buspass_aws import client, s3


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(client, "_PAUSE", 0.0)


@pytest.fixture
async def bucket(ministack):
    name = f"b-{uuid.uuid4().hex}"
    await create_bucket(ministack.url, name)
    return name


def url(server, bucket="bucket", more=""):
    return f"s3://{bucket}?region=eu-central-1&endpoint={server.url}{more}"


@pytest.mark.verify
class TestContract(BlobsContract):
    @pytest.fixture(params=["", "/a/prefix"])
    async def blobs(self, ministack, bucket, request):
        blobs = await s3.open(url(ministack, bucket + request.param))
        yield blobs
        await blobs.close()


@pytest.mark.verify
async def test_what_else_is_in_the_bucket_is_passed_over(ministack, bucket):
    blobs = await s3.open(url(ministack, f"{bucket}/mine"))
    others = client.AwsClient("s3", "eu-central-1", ministack.url)
    for key in ("other", "mine/%20odd", "mine/a%26b", "mine/.hidden", "mine2/x"):
        assert (await others.send("PUT", f"/{bucket}/{key}", headers={}, body=b"x", timeout=60)).status == 200
    for name in ("b", "c"):
        await blobs.put(name, b"x")
    assert await blobs.list("", "", 10) == ["b", "c"]
    assert await blobs.list("", "", 1) == ["b"]
    await others.close()
    await blobs.close()


@pytest.mark.verify
async def test_a_bucket_that_is_not_there_says_so(ministack):
    blobs = await s3.open(url(ministack, "nosuchbucket"))
    for call in (blobs.put("a", b"x"), blobs.get("a"), blobs.list("", "", 1)):
        with pytest.raises(BlobsUnavailable, match=r"'nosuchbucket'.*NoSuchBucket.*the gateway never does"):
            await call
    await blobs.close()


# ── documented answers ──


def refusal(status, code, message="no"):
    return status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def stored(tag="tag"):
    return 200, b"", {"etag": f'"{tag}"'}


def page(*keys, more=False):
    rows = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    body = f"<ListBucketResult>{rows}<IsTruncated>{'true' if more else 'false'}</IsTruncated></ListBucketResult>"
    return 200, body.encode()


async def scripted(server, more=""):
    return await s3.open(url(server, more=more))


async def test_a_condition_that_fails_is_a_conflict():
    script = [refusal(412, "PreconditionFailed"), refusal(412, "PreconditionFailed"), refusal(404, "NoSuchKey")]
    async with Answers(*script) as server:
        blobs = await scripted(server)
        for conditions in ({"if_none_match": True}, {"if_match": "t"}, {"if_match": "t"}):
            with pytest.raises(BlobConflict):
                await blobs.put("a", b"x", **conditions)
        with pytest.raises(BlobConflict, match="none of S3's"):
            await blobs.put("a", b"x", if_match='a"\r\nx: y')
        await blobs.close()
    assert [headers.get("if-match") for _, headers, _ in server.asked] == [None, '"t"', '"t"']
    assert [headers.get("if-none-match") for _, headers, _ in server.asked] == ["*", None, None]


async def test_a_put_that_met_another_is_tried_again():
    met = refusal(409, "ConditionalRequestConflict")
    async with Answers(met, met, stored("new"), met, met, met) as server:
        blobs = await scripted(server)
        assert await blobs.put("a", b"x", if_none_match=True) == "new"
        with pytest.raises(BlobsUnavailable, match="ConditionalRequestConflict"):
            await blobs.put("a", b"x", if_none_match=True)
        await blobs.close()


@pytest.mark.parametrize(
    "broken", [CLOSES, RESETS, CUT, refusal(503, "SlowDown"), refusal(500, "InternalError")], ids=str
)
async def test_only_what_may_be_repeated_is(broken):
    async with Answers(broken, broken, stored("1"), broken, broken, (200, b"x", {"etag": '"1"'}), broken) as server:
        blobs = await scripted(server)
        assert await blobs.put("a", b"x") == "1"
        assert await blobs.get("a") == (b"x", "1")
        with pytest.raises(BlobsUnavailable, match="bucket 'bucket'"):
            await blobs.put("a", b"x", if_none_match=True)
        await blobs.close()
    assert len(server.asked) == 7


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (refusal(403, "AccessDenied"), "s3:ListBucket"),
        (refusal(301, "PermanentRedirect", "use another endpoint, of its region"), "`region` must be the bucket's"),
        (refusal(400, "ExpiredToken"), "ExpiredToken"),
        (refusal(404, "NoSuchBucket"), "the gateway never does"),
        ((404, b""), "404 without a code"),
        ((405, b"<html>"), "405"),
    ],
)
async def test_trouble_is_never_taken_for_nothing_there(answer, why):
    async with Answers(*[answer] * 4) as server:
        blobs = await scripted(server)
        for call in (blobs.get("a"), blobs.delete("a"), blobs.list("", "", 1), blobs.put("a", b"x")):
            with pytest.raises(BlobsUnavailable, match=why):
                await call
        await blobs.close()


async def test_nobody_there_is_unavailable():
    blobs = await s3.open(f"s3://bucket?region=eu-central-1&endpoint=http://127.0.0.1:{free_port()}")
    with pytest.raises(BlobsUnavailable, match="no connection"):
        await blobs.get("a")
    await blobs.close()


async def test_a_list_goes_on_where_a_page_ended():
    async with Answers(page("a", "b%20c", more=True), page("d%3Ae", "f")) as server:
        blobs = await scripted(server)
        assert await blobs.list("", "0", 3) == ["a", "d:e", "f"]
        await blobs.close()
    lines = [line for line, _, _ in server.asked]
    assert "max-keys=3" in lines[0]
    assert "start-after=0" in lines[0]
    assert "max-keys=2" in lines[1]
    assert "start-after=b%20c" in lines[1]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ("", {}),
        ("&encryption=AES256", {"x-amz-server-side-encryption": "AES256"}),
        (
            "&encryption=alias/buspass&owner=123456789012",
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "alias/buspass",
                "x-amz-server-side-encryption-bucket-key-enabled": "true",
                "x-amz-expected-bucket-owner": "123456789012",
            },
        ),
    ],
)
async def test_a_put_asks_for_encryption_and_owner(more, wanted):
    async with Answers(stored(), (200, b"x", {"etag": '"t"'})) as server:
        blobs = await scripted(server, more)
        await blobs.put("a", b"x")
        await blobs.get("a")
        await blobs.close()
    put, got = [headers for _, headers, _ in server.asked]
    told = {name: value for name, value in put.items() if "encryption" in name or "owner" in name}
    assert told == wanted
    assert got.get("x-amz-expected-bucket-owner") == wanted.get("x-amz-expected-bucket-owner")
    assert not [name for name in got if "encryption" in name]


# ── addresses ──


@pytest.mark.parametrize(
    ("place", "base", "root", "folder"),
    [
        ("bucket", "https://bucket.s3.eu-central-1.amazonaws.com", "", ""),
        ("bucket/a/b/", "https://bucket.s3.eu-central-1.amazonaws.com", "", "a/b/"),
        ("my.bucket/a", "https://s3.eu-central-1.amazonaws.com", "/my.bucket", "a/"),
    ],
)
async def test_where_objects_lie(place, base, root, folder):
    blobs = await opened("blobs", f"s3://{place}?region=eu-central-1")
    assert (blobs._client.base, blobs._root, blobs._folder) == (base, root, folder)
    await blobs.close()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("s3://Bucket?region=eu-central-1", "allowed is s3://BUCKET"),
        ("s3://b?region=eu-central-1", "allowed is s3://BUCKET"),
        ("s3://bucket/../x?region=eu-central-1", "a prefix is"),
        ("s3://bucket/a//b?region=eu-central-1", "a prefix is"),
        ("s3://bucket--euc1-az1--x-s3?region=eu-central-1", "directory bucket"),
        ("s3://bucket?region=eu-central-1&encryption=", "encryption ''"),
        ("s3://bucket?region=eu-central-1&encryption=a b", "encryption 'a b'"),
        ("s3://bucket?region=eu-central-1&owner=me", "12 digits"),
        ("s3://bucket?region=eu-central-1&acl=public", "'acl' is no option"),
        ("s3://bucket", "is no region"),
    ],
)
async def test_a_bad_url_is_named(wrong, why, monkeypatch):
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(ValueError, match=why):
        await s3.open(wrong)
