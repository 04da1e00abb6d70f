"""The state port's suite on the store that BUSPASS_TEST_STATE names: an account of whoever runs `make test-cloud`.

No `test_` in the name: these cost money, and are collected only where they are asked for.
"""

import os

import pytest

from buspass.http.adapters import opened
from buspass.testing.state_contract import StateContract

URL = os.environ.get("BUSPASS_TEST_STATE", "")


class TestContract(StateContract):
    transactional = not URL.startswith("dynamodb://")
    histories = 10
    lag = 0.0 if URL.startswith(("sqlite://", "redis://")) else 2.0

    @pytest.fixture
    async def state(self):
        state = await opened("state", URL)
        yield state
        await state.close()
