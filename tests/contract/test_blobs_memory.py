"""The memory adapter keeps the contract of blobs, and can be down."""

import pytest

from buspass.ports.blobs import BlobsUnavailable
from buspass.testing.blobs_contract import BlobsContract
from buspass.testing.blobs_memory import MemoryBlobs


class TestContract(BlobsContract):
    @pytest.fixture
    async def blobs(self):
        return MemoryBlobs()


async def test_a_store_that_is_down_answers_nothing():
    blobs = MemoryBlobs()
    await blobs.put("a", b"x")
    blobs.down = True
    for call in (blobs.get("a"), blobs.put("a", b"y"), blobs.delete("a"), blobs.list("", "", 1)):
        with pytest.raises(BlobsUnavailable):
            await call
    blobs.down = False
    assert (await blobs.get("a"))[0] == b"x"
