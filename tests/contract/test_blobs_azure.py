"""Azure Blob Storage behind the blobs port, on Azurite, Microsoft's stand-in."""

import uuid

import pytest
from azure.core.exceptions import ServiceRequestError
from azure.storage.blob.aio import ContainerClient
from node_services import installed, running

from buspass.ports.blobs import BlobsUnavailable
from buspass.testing.blobs_contract import BlobsContract
from buspass.testing.serve import free_port
from buspass_azure import blobs

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's well-known key, the same on every machine."""


@pytest.fixture(scope="module")
def azurite(tmp_path_factory):
    command, port, folder = (
        installed("azurite", "3.37.0", "azurite-blob"),
        free_port(),
        tmp_path_factory.mktemp("blobs"),
    )
    words = [command, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder, "--skipApiVersionCheck"]
    with running([*words, "--disableTelemetry", "--silent"], port, folder):
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"


@pytest.fixture
async def container(azurite):
    client = ContainerClient(azurite, f"c{uuid.uuid4().hex}", {"account_name": ACCOUNT, "account_key": KEY})
    await client.create_container()
    yield client
    await client.close()


def url(endpoint, container):
    return f"azblob://{ACCOUNT}/{container}?endpoint={endpoint}&key=AZURITE_KEY"


@pytest.fixture
async def opened(azurite, container, monkeypatch):
    monkeypatch.setenv("AZURITE_KEY", KEY)
    store = await blobs.open(url(azurite, container.container_name))
    yield store
    await store.close()


@pytest.mark.verify
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")  # a debugging aid of aiohttp's
class TestContract(BlobsContract):
    @pytest.fixture
    async def blobs(self, opened):
        return opened


# ── what Azure adds ──


@pytest.mark.verify
async def test_a_long_list_goes_over_pages_and_begins_anywhere(opened):
    names = [f"a/{n:03}" for n in range(40)] + ["b/x"]
    for name in names:
        await opened.put(name, b"x")
    assert await opened.list("a/", "a/030", 100) == names[31:40]
    assert await opened.list("", "a/039", 100) == ["b/x"]
    assert await opened.list("a/", "", 7) == names[:7]


@pytest.mark.verify
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
async def test_a_blob_in_parts_is_read_whole_or_anew(azurite, container, opened, monkeypatch):
    """A download of several requests is bound to one ETag; a writer in between makes it begin again."""
    monkeypatch.setattr(opened._container._config, "max_single_get_size", 1000)
    monkeypatch.setattr(opened._container._config, "max_chunk_get_size", 1000)
    await opened.put("k", b"1" * 5000)
    download, tried = opened._container.download_blob, 0

    async def overtaken(name):
        nonlocal tried
        tried += 1
        begun = await download(name)
        if tried == 1:
            await container.upload_blob("k", b"2" * 5000, overwrite=True)
        return begun

    monkeypatch.setattr(opened._container, "download_blob", overtaken)
    found = await opened.get("k")
    assert (found[0], tried) == (b"2" * 5000, 2)


@pytest.mark.verify
async def test_a_container_that_is_gone_is_unavailable_and_no_empty_one(container, opened):
    tag = await opened.put("k", b"1")
    await container.delete_container()
    for call in (opened.get("k"), opened.delete("k"), opened.put("k", b"2", if_match=tag), opened.list("", "", 1)):
        with pytest.raises(BlobsUnavailable, match="ontainer"):
            await call


@pytest.mark.verify
async def test_a_container_that_was_never_there_is_named(azurite, monkeypatch):
    monkeypatch.setenv("AZURITE_KEY", KEY)
    with pytest.raises(ValueError, match=r"can't be had \(404\)"):
        await blobs.open(url(azurite, "nothing"))
    monkeypatch.setenv("AZURITE_KEY", KEY[4:] + "AAAA")
    with pytest.raises(ValueError, match=r"can't be had \(403\)"):
        await blobs.open(url(azurite, "nothing"))


async def test_an_account_that_is_not_there_is_unavailable(monkeypatch):
    monkeypatch.setenv("AZURITE_KEY", KEY)
    with pytest.raises(BlobsUnavailable, match="Azure Blob Storage"):
        await blobs.open(url(f"http://127.0.0.1:{free_port()}/{ACCOUNT}", "nothing"))


async def test_a_put_is_sent_once_whatever_happens(monkeypatch):
    """A conditional put that is sent again could meet its own first try as a conflict."""
    client = ContainerClient("http://127.0.0.1:1/a", "c", {"account_name": "a", "account_key": KEY})
    store, sent = blobs.AzureBlobs(client, None), []

    async def send(request, **_):
        sent.append(request.method)
        raise ServiceRequestError("the connection closed")

    monkeypatch.setattr(client._client._client._pipeline._transport, "send", send)
    for conditions in ({}, {"if_none_match": True}, {"if_match": '"0x1"'}):
        with pytest.raises(BlobsUnavailable, match="closed"):
            await store.put("k", b"1", **conditions)
    assert sent == ["PUT"] * 3
    await store.close()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("azblob://acc", "azblob://ACCOUNT/CONTAINER"),
        ("azblob://acc/", "azblob://ACCOUNT/CONTAINER"),
        ("azblob://acc/a/b", "azblob://ACCOUNT/CONTAINER"),
        ("azblob://Acc/abc", "azblob://ACCOUNT/CONTAINER"),
        ("azblob://acc/a--b", "azblob://ACCOUNT/CONTAINER"),
        ("azblob://user@acc/abc", "azblob://ACCOUNT/CONTAINER"),
        ("azblob://acc/abc?sas=x", "unknown option 'sas'"),
        ("azblob://acc/abc?endpoint=http://example.com", "http:// on loopback"),
        ("azblob://acc/abc?endpoint=ftp://127.0.0.1", "an endpoint is https"),
        ("azblob://acc/abc?key=NOT_SET_ANYWHERE", "NOT_SET_ANYWHERE"),
    ],
)
async def test_a_bad_url_is_named(wrong, why):
    with pytest.raises(ValueError, match=why):
        await blobs.open(wrong)
