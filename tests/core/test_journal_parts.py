"""The journal's pure parts: the Merkle tree, MACs, the timeline, and blobs that erasing a key erases."""

import hashlib
import hmac

import pytest

from buspass.errors import Problem
from buspass.journal import Erased, Journal, Vault, timeline
from buspass.journal.merkle import leaf, root, root_over
from buspass.journal.records import Mac, canonical, commitment, once, recurring
from buspass.journal.timeline import moment
from buspass.testing.blobs_memory import MemoryBlobs

# ── Merkle tree ──

LEAVES = [
    bytes.fromhex(text)
    for text in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
"""The leaves that implementations of RFC 6962 and 9162 are tested with (Certificate Transparency's own vectors)."""
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_rfc_9162(size):
    assert root(LEAVES[:size]) == ROOTS[size]


def split_from_above(leaves):
    """RFC 9162 §2.1.1 as it stands there."""
    if len(leaves) == 1:
        return leaves[0]
    half = 2 ** ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + split_from_above(leaves[:half]) + split_from_above(leaves[half:])).digest()


def test_a_tree_that_grows_from_below_is_the_one_that_is_split_from_above():
    hashes = [leaf(bytes([n % 256, n // 256])) for n in range(300)]
    for size in [*range(1, 70), 127, 128, 129, 255, 256, 257, 300]:
        assert root_over(hashes[:size]) == split_from_above(hashes[:size]).hex()


def test_a_node_does_not_pass_for_a_leaf():
    left, right = (hashlib.sha256(b"\x00" + leaf).digest() for leaf in (b"a", b"b"))
    assert root([b"a", b"b"]) != root([left + right])
    assert root([b"a", b"b"]) != root([b"b", b"a"])


# ── MACs and commitments ──


def test_a_mac_binds_a_record_to_its_place_and_to_every_member():
    journal = Journal(b"k" * 32)
    record = journal.stamp("t", "rec:a", {"use": {"tokens": 1}, "name": "é"})
    assert journal.genuine("t", "rec:a", record)
    for place in (("u", "rec:a"), ("t", "rec:b")):
        assert not journal.genuine(*place, record)
    for changed in ({**record, "name": "e"}, {**record, "more": 1}, {**record, "v": 2}, {**record, "mac": None}):
        assert not journal.genuine("t", "rec:a", changed)
    assert not Journal(b"x" * 32).genuine("t", "rec:a", record)


def test_one_value_has_one_text():
    assert canonical({"b": 1, "a": ["é"]}) == canonical({"a": ["é"], "b": 1}) == '{"a":["é"],"b":1}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical(float("nan"))


def test_a_mac_is_the_librarys_whatever_its_key_and_data():
    for size in (0, 1, 32, 63, 64, 65, 200):
        key = bytes(range(size))
        mac = Mac(key)
        for data in (b"", b"a", b"b" * 1000):
            assert mac.digest(data) == once(key, data) == hmac.digest(key, data, "sha256")


def test_a_commitment_under_a_name_that_recurs_is_the_same():
    for payload in (b"", b"payload"):
        assert recurring(b"key", "fingerprint", payload) == commitment(b"key", "fingerprint", payload)


def test_a_commitment_needs_the_tasks_key():
    said = commitment(b"key", "a", b"payload")
    assert said == commitment(b"key", "a", b"payload")
    assert len({said, commitment(b"other", "a", b"payload"), commitment(b"key", "b", b"payload")}) == 3


# ── the vault ──


@pytest.fixture
def vault():
    return Vault(MemoryBlobs(), b"w" * 32)


async def test_what_is_kept_comes_back_and_is_not_readable_in_the_store(vault):
    key, wrapped = vault.new_key("t")
    assert vault.unwrap("t", wrapped) == key
    await vault.put(key, "t/a", b"secret words")
    stored, _ = await vault._blobs.get("t/a")
    assert b"secret" not in stored
    assert await vault.get(key, "t/a") == b"secret words"
    await vault.delete("t/a")
    await vault.delete("t/a")
    assert await vault.get(key, "t/a") is None


async def test_without_the_tasks_key_everything_of_it_is_erased(vault):
    key, _ = vault.new_key("t")
    await vault.put(key, "t/a", b"secret words")
    for wrapped in (None, ""):
        with pytest.raises(Erased):
            vault.unwrap("t", wrapped)
    another, _ = vault.new_key("t")
    with pytest.raises(Problem, match="altered or is another task's"):
        await vault.get(another, "t/a")


async def test_a_key_opens_for_its_task_and_domain_only(vault):
    _, wrapped = vault.new_key("t")
    for task, other in (("u", vault), ("t", Vault(MemoryBlobs(), b"x" * 32))):
        with pytest.raises(Problem, match="does not open"):
            other.unwrap(task, wrapped)


async def test_an_altered_or_moved_blob_is_an_error_and_no_empty_answer(vault):
    key, _ = vault.new_key("t")
    await vault.put(key, "t/a", b"secret words")
    stored, _ = await vault._blobs.get("t/a")
    await vault._blobs.put("t/b", stored)
    await vault._blobs.put("t/c", stored[:-1] + bytes([stored[-1] ^ 1]))
    for name in ("t/b", "t/c"):
        with pytest.raises(Problem, match="internal"):
            await vault.get(key, name)


async def test_a_blob_store_that_is_away_is_said(vault):
    await vault._blobs.close()
    for call in (vault.put(b"k" * 32, "a", b""), vault.get(b"k" * 32, "a"), vault.delete("a")):
        with pytest.raises(Problem, match="state_unavailable"):
            await call


# ── the timeline ──


def test_a_timeline_is_in_order_of_time_with_what_was_left_after_each():
    records = {
        "rec:b": {"kind": "action", "name": "pay", "host": "h", "at": 2_000, "ended": 2_500, "cause": "a", "use": {}},
        "rec:a": {"kind": "inference", "name": "m", "host": "h", "at": 1_000, "ended": 1_250, "cause": "",
                  "use": {"tokens": 10, "cost": 250_000}, "target": "p/m"},
        "credit:a": {"kind": "inference", "at": 3_000, "use": {"cost": -50_000}},
        "rec:e0": {"kind": "lifecycle", "at": 500, "operation": "start"},
    }  # fmt: skip
    rows = timeline(records, {"rec:a": {"thought": "hm"}}, {"cost": 1_000_000})
    assert [(row["id"], row["kind"]) for row in rows] == [
        ("e0", "lifecycle"), ("a", "inference"), ("b", "action"), ("a", "credit"),
    ]  # fmt: skip
    assert [row["left"]["cost"] for row in rows] == [1.0, 0.75, 0.75, 0.8]
    assert rows[1] == {
        "id": "a", "kind": "inference", "name": "m", "host": "h", "at": "1970-01-01T00:00:01.000Z", "ms": 250,
        "use": {"tokens": 10, "cost": 0.25}, "cost": 0.25, "left": {"cost": 0.75}, "target": "p/m", "thought": "hm",
    }  # fmt: skip
    assert rows[2]["cause"] == "a"


def test_a_moment_is_rfc_3339_in_utc():
    assert moment(1_790_000_000_123) == "2026-09-21T14:13:20.123Z"
