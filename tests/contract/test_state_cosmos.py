"""Cosmos DB behind the state port: the contract, through Microsoft's SDK, on the simulated service."""

import asyncio
import uuid
from collections import Counter
from random import Random

import pytest

from buspass.http.adapters import opened as opened_by_url
from buspass.ports.state import (
    INDEXES,
    Absent,
    Applied,
    AtLeast,
    Delete,
    Equals,
    Misfit,
    OutcomeUnknown,
    Present,
    Put,
    Refused,
    Unavailable,
    Update,
    at,
)
from buspass.testing import state_history
from buspass.testing.cosmos_server import CosmosServer, Trouble, serving_cosmos
from buspass.testing.state_contract import StateContract
from buspass.testing.state_memory import MemoryState
from buspass_azure import access, cosmos, cosmos_account
from buspass_azure.cosmos_account import connect, parse


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Service and client share one process here: on a busy machine neither may judge the other by its watch."""
    monkeypatch.setattr(cosmos_account, "CONNECT_SECONDS", 120)
    monkeypatch.setattr(cosmos_account, "ANSWER_SECONDS", 120)
    monkeypatch.setattr(cosmos, "PATIENCE", 120.0)


@pytest.fixture
async def server(monkeypatch):
    server = CosmosServer()
    server.add("db", "buspass")
    monkeypatch.setenv("COSMOS_KEY", server.key)
    async with serving_cosmos(server):
        yield server


@pytest.fixture
async def opened(server):
    state = await opened_by_url("state", url(server))
    server.requests.clear()
    yield state
    await state.close()


@pytest.fixture
async def impatient(server):
    state = cosmos.CosmosState(await connect(parse(url(server))), patience=0)
    server.requests.clear()
    yield state
    await state.close()


def url(server, rest="db"):
    return f"cosmos://loopback/{rest}?endpoint={server.url}&key=COSMOS_KEY"


def writes(server):
    return server.requests.count(("POST", "/dbs/db/colls/buspass/docs/"))


class TestContract(StateContract):
    test_a_page_may_be_a_thousand_items = None  # with the rest below: it takes seconds of the SDK's time

    histories = 10

    @pytest.fixture
    async def state(self, opened):
        return opened


@pytest.mark.verify
class TestContractFromTwoOpenings(StateContract):
    """Half of the calls come from another process's client, as far as the service can tell; all histories."""

    @pytest.fixture
    async def state(self, server, opened):
        other = await cosmos.open(url(server))
        yield Alternating([opened, other])
        await other.close()


class Alternating:
    def __init__(self, states):
        self.states = states
        self.turn = 0

    def __getattr__(self, name):
        self.turn += 1
        return getattr(self.states[self.turn % 2], name)

    async def close(self):
        await asyncio.gather(*(state.close() for state in self.states))


# ── histories with troubles ──

TROUBLES = (
    *[None] * 4,
    Trouble(status=429, retry_after_ms=1),
    Trouble(status=449),
    *(Trouble(status=status, applied=applied) for status in (408, 500, 503) for applied in (True, False)),
    Trouble(drop=True, applied=True),
    Trouble(drop=True),
)


async def everything(state, partition):
    return [(key, state_history.typed(item)) for key, item in await state.list(partition, "", "", 10)]


async def test_random_histories_with_lost_answers_are_whole_or_did_not_happen(server, opened):
    """Beside memory: what is answered is the same, and what isn't was done as memory does it, or not at all."""
    came_of_it: Counter[str] = Counter()
    for seed in range(6):
        random, memory, partition = Random(seed), MemoryState(), f"history:{uuid.uuid4().hex}"
        for step in range(25):
            drawn = state_history.operations(random)
            server.meet(random.choice(TROUBLES))
            try:
                got = await state_history.outcome(opened, partition, drawn)
            except OutcomeUnknown:
                there = await everything(opened, partition)
                if there != await everything(memory, partition):
                    assert (await state_history.outcome(memory, partition, drawn))[0] == "applied"
                    got = ("unknown, done",)
                else:
                    got = ("unknown, not done",)
            else:
                assert got == await state_history.outcome(memory, partition, drawn), (
                    f"seed {seed}, step {step}: {drawn}"
                )
            came_of_it[got[0]] += 1
            server.calm()
            assert await everything(opened, partition) == await everything(memory, partition)
    assert min(came_of_it[each] for each in ("applied", "refused", "unknown, done", "unknown, not done")) > 5


# ── the account ──


async def test_an_account_below_strong_consistency_is_refused():
    for level in ("BoundedStaleness", "Session", "ConsistentPrefix", "Eventual"):
        with pytest.raises(ValueError, match=f"has consistency {level}; Buspass needs Strong"):
            await opening(CosmosServer(level=level))


async def test_an_account_that_is_weakened_later_gives_no_old_items(server, opened):
    await opened.apply("t", [Put("k", {"n": 1})])
    server.level = "Session"
    for call in (opened.read("t", "k"), opened.list("t", "", "", 1), opened.find("due", "0", "9", 1)):
        with pytest.raises(Unavailable, match="consistency level Strong is stronger than the account's"):
            await call


async def test_an_account_that_writes_in_several_regions_is_refused():
    server = CosmosServer()
    server.many_writers = True
    with pytest.raises(ValueError, match="several regions"):
        await opening(server)


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ({"partitionKey": {"paths": ["/id"], "kind": "Hash", "version": 2}}, "needs /part"),
        ({"partitionKey": {"paths": ["/part"], "kind": "Hash"}}, "version 2"),
        ({"defaultTtl": -1}, "time to live"),
    ],
)
async def test_a_container_of_another_make_is_refused(properties, why):
    with pytest.raises(ValueError, match=why):
        await opening(CosmosServer(), **properties)


async def test_what_is_not_there_or_not_allowed_is_named(server, monkeypatch):
    for rest in ("db/other", "other"):
        with pytest.raises(ValueError, match="there is no container"):
            await cosmos.open(url(server, rest))
    server.key = "AAAA"
    with pytest.raises(ValueError, match=r"can't be opened \(401\)"):
        await cosmos.open(url(server))


async def test_an_account_out_of_reach_is_unavailable(monkeypatch):
    monkeypatch.setenv("COSMOS_KEY", CosmosServer().key)
    async with serving_cosmos(CosmosServer()) as gone:
        pass
    with pytest.raises(Unavailable, match="can't be reached"):
        await cosmos.open(f"cosmos://loopback/db?endpoint={gone}&key=COSMOS_KEY")


async def opening(server, **properties):
    server.add("db", "buspass", **properties)
    async with serving_cosmos(server):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COSMOS_KEY", server.key)
            await cosmos.open(url(server))


def test_urls(monkeypatch):
    monkeypatch.setenv("KEY", "s3cret")
    address = parse("cosmos://my-account/state")
    assert (address.endpoint, address.database) == ("https://my-account.documents.azure.com:443/", "state")
    assert (address.container, address.key) == ("buspass", None)
    address = parse("cosmos://acc/state/here?endpoint=https://acc.documents.azure.cn:443/&key=KEY")
    assert (address.endpoint, address.container) == ("https://acc.documents.azure.cn:443/", "here")
    assert address.key == "s3cret"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("cosmos://acc", "cosmos://ACCOUNT/DATABASE"),
        ("cosmos://acc/", "cosmos://ACCOUNT/DATABASE"),
        ("cosmos://acc/db/c/more", "cosmos://ACCOUNT/DATABASE"),
        ("cosmos://acc/db#x", "cosmos://ACCOUNT/DATABASE"),
        ("cosmos://key@acc/db", "3-44"),
        ("cosmos://Acc/db", "3-44"),
        ("cosmos://acc/db?consistency=Session", "unknown option 'consistency'"),
        ("cosmos://acc/db?endpoint=http://example.com", "http:// on loopback"),
        ("cosmos://acc/db?endpoint=", "an endpoint is https"),
        ("cosmos://acc/db?key=NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE"),
        ("cosmos://acc/db?key", "bad query field"),
    ],
)
async def test_a_bad_url_is_named(wrong, why):
    with pytest.raises(ValueError, match=why):
        await cosmos.open(wrong)


async def test_without_a_key_it_is_the_identity_in_entra_id(server, monkeypatch):
    """The SDK sends a token over TLS only, so loopback shows where the identity goes and no more."""
    asked = []

    class Identity:
        async def get_token(self, *scopes, **_):
            asked.append(scopes)
            raise AssertionError("not over http")

        async def get_token_info(self, *scopes, **_):
            await self.get_token(*scopes)

        async def close(self):
            asked.append("closed")

    monkeypatch.setattr(access, "identity", Identity)
    with pytest.raises(Exception, match=r"(?i)https|TLS"):
        await cosmos.open(f"cosmos://loopback/db?endpoint={server.url}")
    assert asked == ["closed"]
    assert server.requests == []


# ── what is surely not applied, and what may be ──


async def test_a_throttled_write_waits_as_long_as_the_service_says(server, opened):
    server.meet(*[Trouble(status=429, retry_after_ms=1)] * 3)
    assert await opened.apply("t", [Put("k", {"n": 1})]) == Applied({"n": 1})
    assert writes(server) == 4


async def test_a_conflict_of_two_writers_is_tried_again(server, opened):
    server.meet(Trouble(status=449), Trouble(status=449))
    assert await opened.apply("t", [Put("k", {"n": 1})]) == Applied({"n": 1})


async def test_what_stays_throttled_is_unavailable_and_was_asked_once(server, impatient):
    """The SDK's own patience, nine tries in thirty seconds, is off."""
    for status in (429, 449):
        server.requests.clear()
        server.meet(*[Trouble(status=status, retry_after_ms=1)] * 20)
        with pytest.raises(Unavailable, match=str(status)) as caught:
            await impatient.apply("t", [Put("k", {"n": 1}), Put("l", {"n": 1})])
        assert (caught.value.index, writes(server)) == (0, 1)
        server.calm()
    assert await impatient.list("t", "", "", 9) == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_a_refusal_of_the_service_is_unavailable(server, opened, status):
    server.meet(Trouble(status=status, sub=3 if status == 403 else 1003))
    with pytest.raises(Unavailable, match=str(status)):
        await opened.apply("t", [Put("k", {"n": 1})])
    assert writes(server) == 1
    assert await opened.read("t", "k") is None


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
@pytest.mark.parametrize(
    "trouble", [{"status": 408}, {"status": 500}, {"status": 502}, {"status": 503}, {"drop": True}], ids=str
)
async def test_a_lost_answer_leaves_the_outcome_unknown_and_nothing_is_sent_twice(server, opened, trouble, applied):
    await opened.apply("t", [Put("head", {"n": 0, "by": {}})])
    take = Update("head", (Absent(at("by", "c1")),), {at("n"): 1}, {at("by", "c1"): 1})
    server.requests.clear()
    server.meet(Trouble(**trouble, applied=applied))
    with pytest.raises(OutcomeUnknown) as caught:
        await opened.apply("t", [Put("rec", {"n": 1}), take])
    assert (caught.value.index, writes(server)) == (0, 1)
    assert await opened.read("t", "rec") == ({"n": 1} if applied else None)
    head = await opened.read("t", "head")
    assert head["n"] == (1 if applied else 0)
    again = await opened.apply("t", [take])  # to apply the same again is harmless
    assert again == (Refused(0, head) if applied else Applied({"n": 1, "by": {"c1": 1}}))


async def test_an_answer_that_does_not_come_leaves_the_outcome_unknown(server, opened):
    await opened.apply("t", [Put("k", {"n": 1})])
    opened._account.client.client_connection.connection_policy.ReadTimeout = 0.1
    server.meet(Trouble(delay=3))
    with pytest.raises(OutcomeUnknown):
        await opened.apply("t", [Put("l", {"n": 1})])


async def test_a_service_that_is_gone_is_unavailable(monkeypatch):
    server = CosmosServer()
    server.add("db", "buspass")
    monkeypatch.setenv("COSMOS_KEY", server.key)
    async with serving_cosmos(server):
        state = await cosmos.open(url(server))
        await state.apply("t", [Put("k", {"n": 1})])
    with pytest.raises((Unavailable, OutcomeUnknown)):  # a connection that stood may have been used
        await state.apply("t", [Put("l", {"n": 1})])
    with pytest.raises(Unavailable):
        await state.apply("t", [Put("l", {"n": 1})])
    with pytest.raises(Unavailable):
        await state.read("t", "k")
    await state.close()


async def test_a_read_is_tried_again_once(server, opened):
    await opened.apply("t", [Put("k", {"n": 1})])
    for trouble in (Trouble(drop=True), Trouble(status=503), Trouble(status=408)):
        server.meet(trouble, kind="read")
        assert await opened.read("t", "k") == {"n": 1}
    server.meet(Trouble(status=503), Trouble(status=503), kind="read")
    with pytest.raises(Unavailable):
        await opened.read("t", "k")
    server.meet(*[Trouble(status=429, retry_after_ms=1)] * 5, kind="read")
    assert await opened.list("t", "", "", 5) == [("k", {"n": 1})]


async def test_a_refusal_that_can_not_be_explained_is_unavailable_from_there_on(server, opened):
    stale = Update("k", (Equals(at("n"), 7),), {at("n"): 1})
    server.meet(*[Trouble(status=503)] * 2, kind="read")
    with pytest.raises(Unavailable) as caught:
        await opened.apply("t", [Put("rec", {"n": 1}), stale])
    assert caught.value.index == 1


# ── races, limits, and what a patch alone would get wrong ──


async def test_an_item_that_changes_between_refusal_and_look_is_tried_again(server, opened, monkeypatch):
    await opened.apply("t", [Put("k", {"n": 0})])
    look, looks = opened._look, []

    async def meanwhile(partition, index, key):
        if not looks:
            await opened.apply("t", [Update("k", (Equals(at("n"), 0),), {at("n"): 1})])
        looks.append(key)
        return await look(partition, index, key)

    monkeypatch.setattr(opened, "_look", meanwhile)
    assert await opened.apply("t", [Update("k", (Equals(at("n"), 1),), {at("n"): 1})]) == Applied({"n": 2})
    assert looks == ["k"]


async def test_more_steps_than_a_batch_takes_go_in_several(server, opened):
    puts = [Put(f"k{n:03}", {"n": n}) for n in range(250)]
    assert await opened.apply("t", puts) == Applied({"n": 249})
    assert writes(server) == 3
    answer = await opened.apply("t", [Put("new", {"n": 1}), *puts])
    assert answer == Refused(1, {"n": 0})
    deletes = [Delete(f"k{n:03}", (AtLeast(at("n"), 0),)) for n in range(120)]
    assert await opened.apply("t", [*deletes, Delete("k249", (Equals(at("n"), 7),))]) == Refused(120, {"n": 249})


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # a debugging aid of aiohttp's
async def test_a_batch_over_two_megabytes_is_done_in_parts(opened):
    puts = [Put(f"k{n}", {"text": "é" * 300_000}) for n in range(7)]
    assert isinstance(await opened.apply("t", puts), Applied)
    assert [key for key, _ in await opened.list("t", "", "", 9)] == [f"k{n}" for n in range(7)]
    head = Update("k6", (Absent(at("big")),), set={at("big"): "x" * 2_000_000})
    with pytest.raises(Misfit, match="2 MB") as caught:
        await opened.apply("t", [Put("new", {"n": 1}), head])
    assert caught.value.index == 1
    assert len((await opened.read("t", "k6"))["text"]) == 300_000


async def test_ten_changes_and_index_entries_beside_them_are_one_step_for_all(opened):
    await opened.apply("t", [Put("k", {"n": 0, "m": {}})])
    add = {at("m", f"x{n}"): 1 for n in range(8)} | {at("n"): 1}
    index = dict.fromkeys(INDEXES, ("s", "1"))
    update = Update("k", (Equals(at("n"), 0),), add, {at("last"): "z"}, index=index)
    after = {"n": 1, "m": {f"x{n}": 1 for n in range(8)}, "last": "z"}
    assert await opened.apply("t", [update]) == Applied(after)
    assert await opened.find(INDEXES[-1], "s", "9", 5) == [("t", "k")]
    assert await opened.apply("t", [update]) == Refused(0, after)


async def test_an_update_that_only_removes_leaves_something_or_is_a_misfit(opened):
    await opened.apply("t", [Put("k", {"a": 1, "b": {"x": 1}, "c": 3})])
    remove_two = Update("k", (Present(at("a")), Present(at("b"))), remove=(at("a"), at("b")))
    assert await opened.apply("t", [remove_two]) == Applied({"c": 3})
    with pytest.raises(Misfit, match="nothing would be left"):
        await opened.apply("t", [Update("k", (Present(at("c")),), remove=(at("c"),))])
    assert await opened.apply("t", [remove_two]) == Refused(0, {"c": 3})
    assert await opened.apply("t", [Update("no", (Present(at("c")),), remove=(at("c"),))]) == Refused(0, None)


@pytest.mark.parametrize("start", [2**53 - 3, -(2**53) + 3])
async def test_an_addition_never_leaves_the_exact_integers(opened, start):
    step = 1 if start > 0 else -1
    await opened.apply("t", [Put("k", {"n": start, "by": {}})])
    for name, inside in (("a", True), ("b", True), ("c", False)):
        update = Update("k", (Absent(at("by", name)),), {at("n"): step}, {at("by", name): 1})
        if inside:
            await opened.apply("t", [update])
        else:
            with pytest.raises(Misfit):
                await opened.apply("t", [update])
    assert (await opened.read("t", "k"))["n"] == start + 2 * step == step * (2**53 - 1)


@pytest.mark.parametrize("text", ['" OR true OR "', "\\", '\\" OR 1 = 1 --', "'", "\n", "\x00", "☃ é 😀", "@p", "{}"])
async def test_a_text_in_a_condition_stays_a_text(opened, text):
    await opened.apply("t", [Put("k", {"s": "other", "n": 1})])
    update = Update("k", (Equals(at("s"), text),), set={at("s"): "taken"})
    assert await opened.apply("t", [update]) == Refused(0, {"s": "other", "n": 1})
    await opened.apply("t", [Update("k", (Equals(at("s"), "other"),), set={at("s"): text})])
    assert await opened.apply("t", [update]) == Applied({"s": "taken", "n": 1})


async def test_entries_are_merged_in_order_over_all_physical_partitions(server, opened):
    server.ranges = 4
    for n in range(30):
        await opened.apply(f"p{n}", [Put("k", {"n": n}, index={"due": ("s", f"{29 - n:02}")})])
    assert await opened.find("due", "s", "99", 1000) == [(f"p{n}", "k") for n in reversed(range(30))]
    assert await opened.find("due", "s", "09", 4) == [(f"p{29 - n}", "k") for n in range(4)]


async def test_keys_in_another_order_than_the_ports_are_refused(opened, monkeypatch):
    async def folded(*_, **__):
        return [{"k": "b", "v": {"n": 1}}, {"k": "B", "v": {"n": 2}}]

    monkeypatch.setattr(opened, "_query", folded)
    with pytest.raises(Unavailable, match="code points"):
        await opened.list("t", "", "", 5)
