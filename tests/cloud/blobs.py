"""The blobs port's suite on the store that BUSPASS_TEST_BLOBS names: an account of whoever runs `make test-cloud`.

No `test_` in the name: these cost money, and are collected only where they are asked for.
"""

import os

import pytest

from buspass.http.adapters import opened
from buspass.testing.blobs_contract import BlobsContract

URL = os.environ.get("BUSPASS_TEST_BLOBS", "")


class TestContract(BlobsContract):
    @pytest.fixture
    async def blobs(self):
        blobs = await opened("blobs", URL)
        yield blobs
        await blobs.close()
