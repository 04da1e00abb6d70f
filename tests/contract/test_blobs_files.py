"""A folder keeps the contract of blobs, and what it adds: URLs, its layout, several processes, a crash, a lost folder."""

import asyncio
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from buspass.ports.blobs import BlobConflict, BlobsUnavailable
from buspass.testing.blobs_contract import BlobsContract
from buspass_onprem import files


class TestContract(BlobsContract):
    @pytest.fixture
    async def blobs(self, tmp_path):
        blobs = await files.open(f"file:///{tmp_path}/blobs")
        yield blobs
        await blobs.close()


@pytest.fixture
async def opened(tmp_path):
    blobs = await files.open(f"file:///{tmp_path}/blobs")
    yield blobs
    await blobs.close()


@pytest.mark.parametrize("wrong", ["file://blobs", "file:///", "file:///x?y=1", "file:///x#y", "s3://x/y", "/x"])
async def test_a_bad_url_is_named(wrong):
    with pytest.raises(ValueError, match="file:///DIR"):
        await files.open(wrong)


async def test_three_slashes_are_relative_and_four_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative, absolute = await files.open("file:///my%20blobs"), await files.open(f"file:///{tmp_path}/my blobs")
    await relative.put("a", b"x")
    assert (await absolute.get("a"))[0] == b"x"
    assert (tmp_path / "my blobs" / "a~").read_bytes() == b"x"
    await relative.close()
    await absolute.close()


async def test_only_the_owner_can_read(tmp_path, opened):
    await opened.put("a/b", b"x")
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "blobs").rglob("*")}
    assert modes == {0}


async def test_a_place_that_cannot_be_had_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BlobsUnavailable, match="can't be opened"):
        await files.open(f"file:///{tmp_path}/file/blobs")


async def test_the_last_blob_takes_its_folders_with_it(tmp_path, opened):
    await opened.put("a/b/c", b"x")
    await opened.put("a/d", b"x")
    await opened.delete("a/b/c")
    assert not (tmp_path / "blobs/a/b").exists()
    await opened.delete("a/d")
    assert {path.name for path in (tmp_path / "blobs").iterdir()} == {".incoming", ".lock"}


async def test_a_write_that_fails_leaves_the_old_bytes_and_no_rest(tmp_path, opened, monkeypatch):
    await opened.put("a", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BlobsUnavailable, match="No space"):
            await opened.put("a", b"new")
    assert (await opened.get("a"))[0] == b"old"
    assert list((tmp_path / "blobs/.incoming").iterdir()) == []


async def test_bytes_and_folders_are_synced_before_the_answer(tmp_path, opened, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(f"{tmp_path}/blobs"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    await opened.put("a/b", b"x")
    assert synced[0].startswith("/.incoming/")
    assert synced[1:] == ["", "/a"]


async def test_what_a_dead_writer_left_is_removed_in_time(tmp_path, opened):
    old, new = tmp_path / "blobs/.incoming/old", tmp_path / "blobs/.incoming/new"
    for left in (old, new):
        left.touch()
    os.utime(old, (time.time() - 4000,) * 2)
    again = await files.open(f"file:///{tmp_path}/blobs")
    assert (old.exists(), new.exists()) == (False, True)
    assert await again.list("", "", 10) == []
    await again.close()


async def test_a_lost_folder_is_noticed(tmp_path, opened):
    (tmp_path / "blobs").rename(tmp_path / "gone")
    for call in (opened.get("a"), opened.put("a", b"x"), opened.delete("a"), opened.list("", "", 1)):
        with pytest.raises(BlobsUnavailable, match="No such file"):
            await call
    assert not (tmp_path / "blobs").exists()


async def test_pruned_walk_lists_as_a_full_one(opened):
    names = [f"{a}{b}/{c}" for a in ("x", "x-", "x:") for b in ("", "y", "y/z") for c in ("a", "b.c", "d/e")]
    for name in names:
        await opened.put(name, b"")
    for prefix in ("", "x", "x/", "x-", "x-y", "x-y/z/", "x:y/z/d/e", "z"):
        for after in ("", "x", "x-/b.c", "x-y", "x-y/z", "x-y/z/d", "x/", "z"):
            wanted = sorted(name for name in names if name.startswith(prefix) and name > after)
            assert await opened.list(prefix, after, 1000) == wanted


async def test_strange_files_are_no_blobs(tmp_path, opened):
    (tmp_path / "blobs/README").touch()
    (tmp_path / "blobs/.hidden~").mkdir()
    await opened.put("a", b"x")
    assert await opened.list("", "", 10) == ["a"]


async def test_close_finishes_what_is_under_way(tmp_path):
    blobs = await files.open(f"file:///{tmp_path}/blobs")
    writes = [asyncio.create_task(blobs.put(f"b{n}", b"x")) for n in range(50)]
    await asyncio.sleep(0)
    await blobs.close()
    assert len(await asyncio.gather(*writes)) == 50


async def test_after_a_fork_the_store_says_so(opened, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(BlobsUnavailable, match="before a fork"):
        await opened.get("a")


async def test_processes_replace_one_blob_in_turn(tmp_path, opened):
    """Each process adds one to the number in the blob, fifty times, by if_match alone."""
    script = """
        import asyncio, sys
        from buspass.ports.blobs import BlobConflict
        from buspass_onprem import files
        async def main():
            blobs = await files.open(sys.argv[1])
            for _ in range(50):
                while True:
                    data, tag = await blobs.get("n")
                    try:
                        await blobs.put("n", b"%d" % (int(data) + 1), if_match=tag)
                        break
                    except BlobConflict:
                        continue
            await blobs.close()
        asyncio.run(main())
    """
    await opened.put("n", b"0")
    command = [sys.executable, "-c", textwrap.dedent(script), f"file:///{tmp_path}/blobs"]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    data, tag = await opened.get("n")
    assert data == b"150"
    with pytest.raises(BlobConflict):
        await opened.put("n", b"0", if_match=f"{tag}x")
    assert Path(tmp_path / "blobs/n~").read_bytes() == b"150"
