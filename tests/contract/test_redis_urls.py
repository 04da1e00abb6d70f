"""Where Redis is, and how an item is laid out there, without a server."""

import pytest

from buspass.ports.state import Unavailable
from buspass_onprem import redis
from buspass_onprem.redis_nodes import parse
from buspass_onprem.redis_script import tagged


def test_urls():
    plain = parse("redis://cache.corp")
    assert (plain.host, plain.port, plain.database, plain.tls, plain.cluster) == ("cache.corp", 6379, 0, False, False)
    full = parse("redis://10.0.0.1:7000/3?tls=on&user=app&replicas=2&password=REDIS_PASSWORD&prefix=bp-2")
    assert (full.user, full.port, full.database, full.tls) == ("app", 7000, 3, True)
    assert (full.replicas, full.password, full.prefix) == (2, "REDIS_PASSWORD", "bp-2")
    assert parse("redis://a?cluster=on").cluster


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("redis://", "HOST"),
        ("redis:///0", "HOST"),
        ("redis://a/x", "DATABASE"),
        ("redis://a#b", "allowed is"),
        ("redis://a?ssl=on", "'ssl'"),
        ("redis://a?tls=yes", "on and off"),
        ("redis://a?tls=on&tls=off", "given twice"),
        ("redis://a?replicas=-1", "0-5"),
        ("redis://a?prefix={x}", "letters"),
        ("redis://a/1?cluster=on", "database 0"),
        ("redis://a?password=NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE"),
    ],
)
async def test_a_bad_url_is_named(wrong, why):
    with pytest.raises(ValueError, match=why):
        await redis.open(wrong)


async def test_a_password_in_a_url_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="no user or password") as caught:
        await redis.open("redis://app:hunter2@cache.corp")
    assert "hunter2" not in str(caught.value)


async def test_nobody_there_is_unavailable():
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await redis.open("redis://127.0.0.1:1")


def test_partitions_that_look_like_hash_tags_keep_to_one_slot():
    names = ["{x}", "}{", "a%7Bb", "a{b", "%"]
    tags = [tagged(name) for name in names]
    assert len(set(tags)) == len(names)
    assert not any("{" in tag or "}" in tag for tag in tags)
