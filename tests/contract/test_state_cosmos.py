"""Cosmos DB behind the state port: the contract, through Microsoft's SDK, on the simulated service."""

import pytest
from buspass.testing.cosmos_server import CosmosServer, serving_cosmos
from buspass.testing.state_contract import StateContract
from buspass_azure import cosmos


@pytest.fixture
async def server(monkeypatch):
    server = CosmosServer()
    server.add("db", "buspass")
    monkeypatch.setenv("COSMOS_KEY", server.key)
    async with serving_cosmos(server):
        yield server


@pytest.fixture
async def opened(server):
    state = await cosmos.open(url(server))
    yield state
    await state.close()


def url(server):
    return f"cosmos://loopback/db?endpoint={server.url}&key=COSMOS_KEY"


class TestContract(StateContract):
    histories = 10

    @pytest.fixture
    async def state(self, opened):
        return opened
