"""What a governed call asks of the store, through the whole gateway: exact numbers, as a store bills them."""

import pytest

from buspass.testing.house import Domain
from buspass.testing.state_counting import Count


@pytest.fixture
async def steady(domain: Domain):
    """A task in its steady state at a host: one call of each kind is behind it."""
    agent = await domain.agent()
    assert (await agent.chat()).status_code == 200
    assert (await agent.call("item", {"id": "1"})).status_code == 200
    domain.state.count.reset()
    return agent


async def cost(domain, call):
    """Give what one call asked for; it must have been answered well."""
    domain.state.count.reset()
    answer = await call
    assert answer.status_code == 200, answer.text
    return domain.state.count


async def test_an_unkeyed_inference_is_three_writes_and_no_read(domain, steady):
    hold, settle = 1, 2
    for _ in range(3):
        assert await cost(domain, steady.chat()) == Count(applies=2, writes=hold + settle)


async def test_an_unkeyed_tool_call_is_three_writes_and_no_read(domain, steady):
    for _ in range(3):
        assert await cost(domain, steady.call("item", {"id": "2"})) == Count(applies=2, writes=3)


async def test_a_keyed_call_reads_its_head_and_record_before_and_its_record_after_its_hold(domain, steady):
    """Two reads more than the task's head, which is read so that an old fence meets no outcome."""
    for call in (
        steady.chat(headers={"idempotency-key": "k1"}),
        steady.call("item", {"id": "2"}, headers={"idempotency-key": "k2"}),
    ):
        assert await cost(domain, call) == Count(reads=3, applies=2, writes=3)


async def test_a_repeated_key_is_two_reads_and_no_write(domain, steady):
    headers = {"idempotency-key": "k1"}
    await steady.chat(headers=headers)
    assert await cost(domain, steady.chat(headers=headers)) == Count(reads=2)


async def test_the_first_call_of_a_task_at_a_host_reads_it_once(domain, steady):
    stranger = await domain.at("aws", await domain.agent())
    await stranger.call("item", {"id": "1"})  # so that this host knows the other's public key
    there = await domain.at("aws", steady)
    first = await cost(domain, there.call("item", {"id": "1"}))
    assert first == Count(reads=3, applies=2, writes=3)  # the facts, their key, the head
    assert await cost(domain, there.call("item", {"id": "1"})) == Count(applies=2, writes=3)


async def test_a_call_after_one_at_another_host_asks_no_more(domain, steady):
    there = await domain.at("aws", steady)
    await there.call("item", {"id": "1"})
    assert await cost(domain, steady.chat()) == Count(applies=2, writes=3)


async def test_a_refusal_reads_what_it_rests_on_and_counts(domain, steady):
    domain.state.count.reset()
    answer = await steady.call("pay", {"order": "1", "amount": 1})
    assert answer.json()["code"] == "prerequisite_missing"
    # the head, because nothing is refused on a copy, and again for its count; the record and the count
    assert domain.state.count == Count(reads=2, applies=1, writes=2)
