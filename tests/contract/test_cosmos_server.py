"""The simulated Cosmos DB answers as Microsoft documents; where another implementation does too, it says the same."""

import json
import uuid

import pytest
from azure.core import MatchConditions
from azure.cosmos import PartitionKey
from azure.cosmos.aio import CosmosClient
from azure.cosmos.exceptions import CosmosBatchOperationError, CosmosHttpResponseError
from node_services import installed, running

from buspass.testing.cosmos_server import CosmosServer, serving_cosmos
from buspass.testing.serve import free_port

OTHERS_KEY = "C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw=="
"""The key that every emulator has."""
QUIET = {
    "connection_timeout": 120,
    "read_timeout": 120,
    "retry_total": 0,
    "retry_throttle_total": -1,
    "enable_endpoint_discovery": False,
}


@pytest.fixture
async def server():
    server = CosmosServer(ranges=3)
    server.add("db", "c")
    async with serving_cosmos(server):
        yield server


@pytest.fixture
async def container(server):
    async with CosmosClient(server.url, server.key, **QUIET) as client:
        yield client.get_database_client("db").get_container_client("c")


async def status(call):
    """The status that a call fails with; 0: it does not."""
    try:
        await call
    except (CosmosHttpResponseError, CosmosBatchOperationError) as error:
        return error.status_code
    return 0


def item(key, **more):
    return {"id": key, "part": "p", **more}


class Documented:
    """What both implementations must do alike: creation, ETags, patches and their predicates."""

    async def test_a_document_is_created_once_and_comes_back(self, container):
        made = await container.create_item(item("a", n=1))
        assert made["_etag"]
        assert (await container.read_item("a", "p"))["n"] == 1
        assert await status(container.create_item(item("a", n=2))) == 409
        assert await status(container.delete_item("b", "p")) == 404
        await container.delete_item("a", "p")
        assert await status(container.delete_item("a", "p")) == 404

    async def test_a_replace_or_delete_with_an_old_etag_is_refused(self, container):
        old = (await container.create_item(item("a", n=1)))["_etag"]
        only = {"match_condition": MatchConditions.IfNotModified}
        new = (await container.replace_item("a", item("a", n=2), etag=old, **only))["_etag"]
        assert new != old
        assert await status(container.replace_item("a", item("a", n=3), etag=old, **only)) == 412
        assert await status(container.upsert_item(item("a", n=3), etag=old, **only)) == 412
        assert await status(container.delete_item("a", "p", etag=old, **only)) == 412
        change = [{"op": "incr", "path": "/n", "value": 1}]
        assert await status(container.patch_item("a", "p", change, etag=old, **only)) == 412
        assert (await container.read_item("a", "p"))["n"] == 2
        await container.delete_item("a", "p", etag=new, **only)

    async def test_a_patch_adds_sets_and_removes(self, container):
        await container.create_item(item("a", n=1, m={"x": 1, "gone": 1}, s="old"))
        changes = [
            {"op": "incr", "path": "/n", "value": 4},
            {"op": "set", "path": "/m/new", "value": {"deep": [1]}},
            {"op": "set", "path": "/s", "value": None},
            {"op": "remove", "path": "/m/gone"},
        ]
        found = await container.patch_item("a", "p", changes)
        assert (found["n"], found["m"], found["s"]) == (5, {"x": 1, "new": {"deep": [1]}}, None)

    @pytest.mark.parametrize(
        ("predicate", "holds"),
        [
            ('c["v"]["n"] >= 5', True),
            ('c["v"]["n"] >= 6', False),
            ('c["v"]["q"] >= 0', False),
            ('c["v"]["s"] >= 1', False),
            ('c["v"]["s"] = "5"', True),
            ('c["v"]["s"] = 5', False),
            ('c["v"]["t"] = true', True),
            ('c["v"]["t"] = 1', False),
            ('IS_DEFINED(c["v"]["z"])', True),
            ('NOT IS_DEFINED(c["v"]["q"]["r"]["x"])', True),
            ('IS_DEFINED(c["v"]["m"]["a.b"]) AND c["v"]["m"]["a.b"] = 1', True),
            ('c["v"]["n"] = 5 AND c["v"]["n"] = 6', False),
            ('IS_OBJECT(c["v"]["m"])', True),
            ('IS_OBJECT(c["v"]["l"])', False),
            ('(NOT IS_DEFINED(c["v"]["q"]) OR (IS_NUMBER(c["v"]["q"]) AND c["v"]["q"] <= 7))', True),
            ('(NOT IS_DEFINED(c["v"]["s"]) OR (IS_NUMBER(c["v"]["s"]) AND c["v"]["s"] <= 7))', False),
        ],
    )
    async def test_a_patch_with_a_predicate_is_done_where_it_is_true(self, container, predicate, holds):
        await container.create_item(item("a", v={"n": 5, "s": "5", "t": True, "z": None, "m": {"a.b": 1}, "l": [1]}))
        change = [{"op": "set", "path": "/done", "value": 1}]
        patched = container.patch_item("a", "p", change, filter_predicate=f"FROM c WHERE {predicate}")
        assert await status(patched) == (0 if holds else 412)
        assert ("done" in await container.read_item("a", "p")) is holds

    async def test_a_patch_of_more_than_ten_operations_is_refused(self, container):
        await container.create_item(item("a"))
        changes = [{"op": "set", "path": f"/x{n}", "value": n} for n in range(11)]
        assert await status(container.patch_item("a", "p", changes)) == 400
        assert await status(container.patch_item("a", "p", changes[:10])) == 0

    async def test_a_query_selects_and_orders_and_pages(self, container):
        for n in (3, 1, 2, 10):
            await container.create_item(item(f"k{n}", n=n))
        text, parameters = "SELECT c.id FROM c WHERE c.n >= @n ORDER BY c.id", [{"name": "@n", "value": 2}]
        pages = container.query_items(text, parameters=parameters, partition_key="p", max_item_count=2).by_page()
        found = [[each["id"] async for each in page] async for page in pages]
        assert found == [["k10", "k2"], ["k3"]]


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    command, port = installed("@vercel/cosmosdb-server", "1.0.1", "cosmosdb-server"), free_port()
    folder = tmp_path_factory.mktemp("cosmosdb-server")
    with running([command, "--host", "127.0.0.1", "-p", str(port), "--no-ssl"], port, folder):
        yield f"http://127.0.0.1:{port}/"


class TestOurs(Documented):
    pass


@pytest.mark.verify
class TestAnother(Documented):
    """@vercel/cosmosdb-server: it knows no batch, and answers 500 for what isn't there, so neither is asked of it."""

    @pytest.fixture
    async def container(self, another):
        async with CosmosClient(another, OTHERS_KEY, **QUIET) as client:
            database = await client.create_database(uuid.uuid4().hex)
            yield await database.create_container("c", PartitionKey("/part"))


# ── what the other lacks ──


async def test_a_batch_is_done_whole_or_not_at_all(container):
    await container.create_item(item("a", n=1))
    steps = [("create", (item("b"),)), ("patch", ("a", [{"op": "incr", "path": "/n", "value": 1}])), ("delete", ("b",))]
    answers = await container.execute_item_batch(steps, "p")
    assert [answer["statusCode"] for answer in answers] == [201, 200, 204]
    assert answers[1]["resourceBody"]["n"] == 2
    steps = [
        ("create", (item("c"),)),
        ("patch", ("a", [{"op": "incr", "path": "/n", "value": 1}]), {"filter_predicate": "FROM c WHERE c.n = 7"}),
        ("create", (item("d"),)),
    ]
    with pytest.raises(CosmosBatchOperationError) as caught:
        await container.execute_item_batch(steps, "p")
    assert [answer["statusCode"] for answer in caught.value.operation_responses] == [424, 412, 424]
    assert (caught.value.error_index, caught.value.status_code) == (1, 412)
    assert await status(container.read_item("c", "p")) == 404
    assert (await container.read_item("a", "p"))["n"] == 2


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (("create", (item("a"),)), 409),
        (("delete", ("nothing",)), 404),
        (("replace", ("a", item("a")), {"if_match_etag": '"old"'}), 412),
        (("patch", ("a", [{"op": "remove", "path": "/nothing"}])), 400),
        (("patch", ("a", [{"op": "incr", "path": "/s", "value": 1}])), 400),
        (("patch", ("a", [{"op": "set", "path": "/no/parent", "value": 1}])), 400),
        (("patch", ("a", [{"op": "set", "path": "/part", "value": "q"}])), 400),
        (("patch", ("a", [{"op": "set", "path": "/x", "value": 1}]), {"filter_predicate": "FROM c WHERE c.n ="}), 400),
        (("create", ({"id": "z", "part": "another"},)), 400),
        (("create", (item("a/b"),)), 400),
        (("create", (item("x" * 1024),)), 400),
        (("create", (item("big", text="x" * 2_097_152),)), 413),
    ],
)
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_each_failure_has_its_code_and_fails_the_batch(container, step, code):
    await container.create_item(item("a", n=1, s="text"))
    assert await status(container.execute_item_batch([("create", (item("first"),)), step], "p")) == code
    assert await status(container.read_item("first", "p")) == 404


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_a_batch_has_limits(container):
    creates = [("create", (item(f"k{n}"),)) for n in range(101)]
    assert await status(container.execute_item_batch(creates, "p")) == 400
    large = [("create", (item(f"k{n}", text="x" * 700_000),)) for n in range(3)]
    assert await status(container.execute_item_batch(large, "p")) == 413
    assert await status(container.execute_item_batch(creates[:100], "p")) == 0


async def test_a_wrong_key_opens_nothing(server):
    async with CosmosClient(server.url, server.key, **QUIET) as client:
        server.key = OTHERS_KEY
        container = client.get_database_client("db").get_container_client("c")
        assert await status(container.read()) == 401


async def test_an_expired_document_is_gone(server):
    server.add("db", "short", defaultTtl=10)
    now = [1000.0]
    server.clock = lambda: now[0]
    async with CosmosClient(server.url, server.key, **QUIET) as client:
        container = client.get_database_client("db").get_container_client("short")
        await container.create_item(item("default"))
        await container.create_item(item("long", ttl=100))
        await container.create_item(item("ever", ttl=-1))
        for passed, left in ((9, {"default", "long", "ever"}), (10, {"long", "ever"}), (100, {"ever"})):
            now[0] = 1000.0 + passed
            found = container.query_items("SELECT VALUE c.id FROM c", partition_key="p")
            assert {each async for each in found} == left
        assert await status(container.read_item("default", "p")) == 404


async def test_whole_numbers_are_exact_up_to_two_to_the_fifty_third(container):
    numbers = [2**53 - 1, 1 - 2**53, 2**53 + 1]
    found = (await container.create_item(item("a", n=numbers)))["n"]
    assert found == [2**53 - 1, 1 - 2**53, 2**53]


async def test_a_query_across_partitions_is_merged_by_the_sdk(server, container):
    for n in range(20):
        await container.create_item({"id": "k", "part": f"p{n}", "n": 19 - n})
    found = container.query_items("SELECT c.part FROM c WHERE c.n < 15 ORDER BY c.n", max_item_count=4)
    assert [each["part"] async for each in found] == [f"p{n}" for n in reversed(range(5, 20))]
    plans = [path for method, path in server.requests if path.endswith("/pkranges/")]
    assert plans


async def test_a_document_not_changed_since_is_304(server, container):
    made = await container.create_item(item("a"))
    unchanged = container.read_item("a", "p", etag=made["_etag"], match_condition=MatchConditions.IfModified)
    assert json.dumps(await unchanged) in ("null", "{}")
