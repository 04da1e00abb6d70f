"""Redis keeps the contract, alone and as a cluster, and what it adds: lost answers, evictions, replicas, kill -9."""

import asyncio
import contextlib
import time
import uuid

import pytest
from redis_servers import Server, cluster

from buspass.ports.state import Absent, Applied, AtLeast, Equals, OutcomeUnknown, Put, Refused, Unavailable, Update, at
from buspass.testing.state_contract import StateContract
from buspass_onprem import redis

pytestmark = pytest.mark.verify


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("redis"), "appendfsync no") as running:
        yield running


@pytest.fixture(scope="module")
def primaries(tmp_path_factory):
    servers = cluster(tmp_path_factory.mktemp("cluster"))
    yield servers
    for each in servers:
        each.__exit__()


def url(server, more=""):
    return f"redis://127.0.0.1:{server.port}{more}"


class TestContract(StateContract):
    @pytest.fixture
    async def state(self, server):
        state = await redis.open(url(server, f"?prefix={uuid.uuid4().hex}"))
        yield state
        await state.close()


class TestContractOfACluster(StateContract):
    @pytest.fixture
    async def state(self, primaries):
        state = await redis.open(url(primaries[0], f"?cluster=on&prefix={uuid.uuid4().hex}"))
        yield state
        await state.close()


# ── a proxy that breaks connections at the worst moment ──


class Breaking:
    """Passes bytes on; `lose` drops the connection instead of the next answer, `mute` answers no more."""

    def __init__(self, port):
        self.target, self.lose, self.mute, self.passed = port, False, False, 0

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def _serve(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        back = asyncio.create_task(self._back(far_reader, writer))
        while data := await reader.read(65536):
            self.passed += 1
            far_writer.write(data)
        far_writer.close()
        await back

    async def _back(self, reader, writer):
        while data := await reader.read(65536):
            if self.lose:
                self.lose = False
                break
            if not self.mute:
                writer.write(data)
        writer.close()


async def test_a_lost_answer_is_no_refusal_and_nothing_is_sent_twice(server):
    async with Breaking(server.port) as proxy:
        state = await redis.open(url(proxy, "?prefix=lost"))
        partition = uuid.uuid4().hex
        await state.apply(partition, [Put("head", {"n": 0})])
        proxy.lose, before = True, proxy.passed
        with pytest.raises(OutcomeUnknown):
            await state.apply(partition, [Update("head", (Equals(at("n"), 0),), {at("n"): 1})])
        assert proxy.passed == before + 1
        assert await state.read(partition, "head") == {"n": 1}
        await state.close()


async def test_a_lost_read_is_unavailable(server):
    async with Breaking(server.port) as proxy:
        state = await redis.open(url(proxy))
        await state.read("p", "k")
        proxy.lose = True
        with pytest.raises(Unavailable):
            await state.read("p", "k")
        assert await state.read("p", "k") is None
        await state.close()


async def test_an_answer_that_never_comes_is_unknown(server):
    async with Breaking(server.port) as proxy:
        state = await redis.open(url(proxy, "?prefix=mute"))
        await state.read("p", "k")
        proxy.mute, partition = True, uuid.uuid4().hex
        with impatient(state), pytest.raises(OutcomeUnknown):
            await state.apply(partition, [Put("k", {"n": 1})])
        proxy.mute = False
        assert await state.read(partition, "k") == {"n": 1}
        await state.close()


@contextlib.contextmanager
def impatient(state):
    """Its open connections wait no longer than a third of a second, and those of before and after as long as ever."""
    connections = [each for pool in state._nodes.pools.values() for each in pool._available_connections]
    patience = {each: each.socket_timeout for each in connections}
    assert patience
    for each in connections:
        each.socket_timeout = 0.3
    yield
    for each, seconds in patience.items():
        each.socket_timeout = seconds


async def test_a_server_that_is_gone_is_unavailable_and_found_again(tmp_path):
    with Server(tmp_path) as server:
        state = await redis.open(url(server))
        assert isinstance(await state.apply("p", [Put("k", {"n": 1})]), Applied)
        server.kill()
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await state.apply("p", [Put("k2", {"n": 1})])
        with pytest.raises(Unavailable):
            await state.apply("p", [Put("k2", {"n": 1})])
        server.start()
        assert await state.apply("p", [Put("k2", {"n": 2})]) in (Applied({"n": 2}), Refused(0, {"n": 1}))
        assert await state.read("p", "k") == {"n": 1}
        await state.close()


# ── what a server may not be, and what it may refuse ──


async def test_a_server_that_evicts_is_refused(tmp_path):
    with Server(tmp_path, "maxmemory 50mb", "maxmemory-policy allkeys-lru") as server:
        with pytest.raises(ValueError, match="noeviction"):
            await redis.open(url(server))
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await (await redis.open(url(server))).close()


async def test_full_memory_refuses_and_keeps_what_there_is(tmp_path):
    with Server(tmp_path, "maxmemory-policy noeviction") as server:
        state = await redis.open(url(server))
        await state.apply("p", [Put("k", {"n": 1})])
        server.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable, match=r"OOM|memory"):
            await state.apply("p", [Update("k", (Equals(at("n"), 1),), {at("n"): 1})])
        assert await state.read("p", "k") == {"n": 1}
        await state.close()


async def test_a_replica_refuses_writes_surely(tmp_path):
    with Server(tmp_path / "a") as primary, Server(tmp_path / "b", f"replicaof 127.0.0.1 {primary.port}") as replica:
        state = await redis.open(url(replica))
        with pytest.raises(Unavailable, match="read only"):
            await state.apply("p", [Put("k", {"n": 1})])
        await state.close()


async def test_a_write_counts_when_the_replicas_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr("buspass_onprem.redis_nodes.TIMEOUT", 2.0)
    with Server(tmp_path / "a", "repl-diskless-sync-delay 0") as primary:
        state = await redis.open(url(primary, "?replicas=1"))
        with pytest.raises(OutcomeUnknown, match="0 of 1 replicas"):
            await state.apply("p", [Put("k", {"n": 1})])
        with Server(tmp_path / "b", f"replicaof 127.0.0.1 {primary.port}") as replica:
            key = await answered(state)
            other = await redis.open(url(replica))
            assert await other.read("p", key) == {"n": 1}
            await other.close()
        await state.close()


async def answered(state):
    """The first key whose write was answered, once the replica follows."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        key = uuid.uuid4().hex
        try:
            await state.apply("p", [Put(key, {"n": 1})])
        except OutcomeUnknown:
            await asyncio.sleep(0.1)
        else:
            return key
    raise AssertionError("the replica never followed")


async def test_a_password_is_a_secret_of_the_host(tmp_path, monkeypatch):
    with Server(tmp_path) as server:
        server.command("CONFIG", "SET", "requirepass", "sesame")
        with pytest.raises(Unavailable):
            await redis.open(url(server))
        monkeypatch.setenv("CACHE_PASSWORD", "sesame")
        state = await redis.open(url(server, "?password=CACHE_PASSWORD"))
        assert isinstance(await state.apply("p", [Put("k", {"n": 1})]), Applied)
        await state.close()


# ── a cluster that moves slots ──


async def test_a_slot_that_moves_is_followed(primaries):
    state = await redis.open(url(primaries[0], f"?cluster=on&prefix={uuid.uuid4().hex}"))
    partitions = [uuid.uuid4().hex for _ in range(30)]
    for partition in partitions:
        await state.apply(partition, [Put("head", {"n": 0})])
    places = set(state._nodes.slots.values())
    assert len(places) == 3
    state._nodes.slots = {slot: next(iter(places)) for slot in range(16384)}  # all but a third is wrong by now
    for partition in partitions:
        update = Update("head", (Equals(at("n"), 0),), {at("n"): 1})
        assert await state.apply(partition, [update]) == Applied({"n": 1})
    await state.close()


# ── entries that a crash left ──


async def test_an_entry_that_a_crash_left_is_never_found_and_dropped_after_a_minute(server, monkeypatch):
    state = await redis.open(url(server, f"?prefix={uuid.uuid4().hex}"))
    await state.apply("p", [Put("k", {"n": 1}, index={"due": ("s", "1")})])

    async def crash(*_):
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(redis.Nodes, "run", crash)
        with pytest.raises(asyncio.CancelledError):
            await state.apply("p", [Put("other", {"n": 1}, index={"due": ("s", "0")})])
    place = state._index("due", "s")
    assert await state._nodes.call(place, "ZCARD", place) == 2
    assert await state.find("due", "s", "9", 1) == [("p", "k")]
    monkeypatch.setattr(redis, "STALE", -60_000)
    assert await state.find("due", "s", "9", 5) == [("p", "k")]
    assert await state._nodes.call(place, "ZCARD", place) == 1
    await state.close()


# ── kill -9 ──


async def test_kill_minus_nine_of_the_server_loses_nothing_that_was_answered(tmp_path):
    with Server(tmp_path) as server:
        state = await redis.open(url(server))
        await state.apply("t", [Put("head", {"left": 100_000, "by": {}})])
        answered, stop = set(), asyncio.Event()

        async def write(name):
            for n in range(100_000):
                call = f"{name}-{n}"
                take = Update(
                    "head",
                    (AtLeast(at("left"), 1), Absent(at("by", call))),
                    {at("left"): -1},
                    {at("by", call): 1},
                )
                try:
                    if isinstance(await state.apply("t", [Put(f"rec:{call}", {"n": 1}), take]), Applied):
                        answered.add(call)
                except (Unavailable, OutcomeUnknown):
                    return
                if stop.is_set():
                    return

        writers = [asyncio.create_task(write(f"w{n}")) for n in range(8)]
        while len(answered) < 200:
            await asyncio.sleep(0.01)
        server.kill()
        await asyncio.gather(*writers)
        server.start()
        head = await state.read("t", "head")
        records = [key.removeprefix("rec:") for key, _ in await state.list("t", "rec:", "", 1000)]
        assert answered <= set(head["by"])
        assert set(head["by"]) == set(records)
        assert head["left"] == 100_000 - len(records)
        await state.close()
