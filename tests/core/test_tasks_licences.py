"""Each tool call of a model licenses one action; names and ids as the store takes them."""

import pytest

from buspass.errors import Problem
from buspass.journal import Journal as Records
from buspass.ports.state import Put, at
from buspass.tasks import Licence, Licences, keyed, keyless, segment
from buspass.tasks.licences import digest
from buspass.testing.clock import FakeClock
from buspass.testing.state_memory import MemoryState


def offer(name, tool="pay", fingerprint="f"):
    return {"id": name, "tool": tool, "fingerprint": fingerprint}


class Journal:
    def __init__(self):
        self.state, self.clock = MemoryState(), FakeClock()
        self.records = Records(b"k" * 32)
        self.licences = Licences(self.state, self.records.genuine)

    async def infer(self, *offers, call=None, waited=0.0):
        call = call or keyless(self.clock, "i")
        await self.put(call, offers=list(offers), at=self.clock.now() + round(waited * 1000), turn=1)
        self.clock.advance(1)
        return call

    async def put(self, call, **record):
        key = f"rec:{call}"
        await self.state.apply("t", [Put(key, self.records.stamp("t", key, {"kind": "x", **record}))])


@pytest.fixture
def journal():
    return Journal()


async def test_a_licence_is_found_by_the_models_id_the_newest_first(journal):
    await journal.infer(offer("call_1", "look"))
    newest = await journal.infer(offer("call_0"), offer("call_1"))
    found = await journal.licences.by_id("t", "call_1")
    assert found == Licence(inference=newest, index=1, tool="pay", fingerprint="f")
    assert await journal.licences.by_id("t", "call_2") is None
    assert await journal.licences.by_id("u", "call_1") is None


async def test_a_licence_is_found_by_tool_and_arguments_and_used_once(journal):
    first = await journal.infer(offer("call_1"))
    second = await journal.infer(offer("call_2"), offer("call_3", fingerprint="g"))
    found = await journal.licences.by_content("t", "pay", "f")
    assert found.inference == second
    await journal.put(found.call, use={})
    found = await journal.licences.by_content("t", "pay", "f")
    assert found.inference == first
    await journal.put(found.call, use={})
    assert await journal.licences.by_content("t", "pay", "f") is None
    assert await journal.licences.by_content("t", "look", "g") is None


async def test_an_inference_with_a_clients_key_licenses_too(journal):
    call = await journal.infer(offer("call_1"), call=keyed("t", "my key", "inference"))
    await journal.put("k" + "0" * 32)  # a keyed action offers nothing
    assert (await journal.licences.by_id("t", "call_1")).inference == call


async def test_of_inferences_with_and_without_a_key_the_one_held_last_counts(journal):
    old = await journal.infer(offer("call_0"))
    keys = [keyed("t", f"key {n}", "inference") for n in range(6)]
    for call in sorted(keys):  # so the digests' order is that of time, which is the order they are listed in
        assert (await journal.infer(offer("call_0"), call=call)) == call
        assert (await journal.licences.by_id("t", "call_0")).inference == call
    last = await journal.infer(offer("call_0"))
    assert (await journal.licences.by_id("t", "call_0")).inference == last != old


async def test_an_inference_that_waited_for_its_money_is_newer_than_one_that_did_not(journal):
    for _ in range(3):
        await journal.infer()
    waited = await journal.infer(offer("call_0"), waited=50)
    for _ in range(10):
        await journal.infer()
    await journal.infer(offer("call_0"))
    assert (await journal.licences.by_id("t", "call_0")).inference == waited


async def test_a_licence_that_an_action_in_flight_uses_is_left_to_it(journal):
    first, second = await journal.infer(offer("call_1")), await journal.infer(offer("call_2"))
    in_use = await journal.licences.by_content("t", "pay", "f")
    await journal.state.apply("t", [Put("head", {"open": {in_use.call: {}}})])
    found = await journal.licences.by_content("t", "pay", "f")
    assert (in_use.inference, found.inference) == (second, first)
    await journal.put(found.call, use={})
    assert await journal.licences.by_content("t", "pay", "f") == in_use, "its twin meets it there, and is told to wait"


async def test_the_search_goes_on_through_pages_and_ends_somewhere(journal):
    oldest = await journal.infer(offer("old"))
    for _ in range(300):
        await journal.infer()
    assert (await journal.licences.by_id("t", "old")).inference == oldest
    for _ in range(300):
        await journal.infer()
    assert await journal.licences.by_id("t", "old") is None


async def test_who_can_write_to_the_store_makes_no_licence(journal):
    before = await journal.infer(offer("call_0"))
    forged = {"kind": "inference", "at": journal.clock.now(), "turn": 1, "offers": [offer("call_0"), offer("call_1")]}
    theirs = Records(b"x" * 32)
    for call in (keyless(journal.clock, "i"), keyed("t", "k", "inference")):
        key = f"rec:{call}"
        elsewhere = journal.records.stamp("u", key, forged)
        for record in (forged, theirs.stamp("t", key, forged), elsewhere, {**elsewhere, "kind": "action"}):
            journal.state._items["t"][key] = record
            assert await journal.licences.by_id("t", "call_1") is None
            assert (await journal.licences.by_id("t", "call_0")).inference == before
            assert (await journal.licences.by_content("t", "pay", "f")).inference == before


async def test_a_store_that_is_away_licenses_nothing(journal):
    journal.state.down = True
    for search in (journal.licences.by_id("t", "x"), journal.licences.by_content("t", "pay", "f")):
        with pytest.raises(Problem, match="state_unavailable"):
            await search


def test_each_offer_is_another_action():
    places = [("i1", 0), ("i1", 1), ("i2", 0), ("i11", 0), ("i1", 10)]
    calls = {Licence(inference=call, index=n, tool="pay", fingerprint="f").call for call, n in places}
    assert len(calls) == 5


def test_the_later_id_sorts_first_and_none_comes_twice():
    clock = FakeClock()
    ids = []
    for _ in range(50):
        ids += [keyless(clock, "i"), keyless(clock, "i")]
        clock.advance(0.001)
    assert len(set(ids)) == 100
    times = [name[:13] for name in ids]
    assert times == sorted(times, reverse=True)
    assert at(ids[0]) == (ids[0],)


def test_a_key_is_another_call_in_another_task_and_of_another_kind():
    assert keyed("t", "k", "inference") == keyed("t", "k", "inference")
    assert len({keyed("t", "k", "inference"), keyed("u", "k", "inference"), keyed("t", "k", "action")}) == 3
    assert digest("a", "b") != digest("ab", "") != digest("a\x00b")


def test_names_become_segments_that_stay_apart():
    assert segment("gpt-5.2:eu_1") == "gpt-5.2:eu_1"
    strange = ["", "a b", "a/b", "é", "a" * 101, "a" * 102, "a b" * 60]
    found = {segment(name) for name in strange}
    assert len(found) == len(strange)
    for name in found:
        assert at(name) == (name,)
