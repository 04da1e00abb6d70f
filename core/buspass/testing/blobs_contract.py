"""The contract suite of the blobs port: an adapter passes it, or is none.

Owns what every store must do alike. Refuses to know a store: subclass `BlobsContract` and override the fixture
`blobs`; names are new each time, so a shared store will do.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from buspass.ports.blobs import BlobConflict, Blobs, BlobsUnavailable


class BlobsContract:
    @pytest.fixture
    async def blobs(self) -> AsyncIterator[Blobs] | Blobs:
        pytest.fail("override the fixture `blobs`")

    @pytest.fixture
    def root(self) -> str:
        return uuid.uuid4().hex

    async def test_what_is_not_there_is_none(self, blobs: Blobs, root: str) -> None:
        assert await blobs.get(f"{root}/a") is None
        await blobs.delete(f"{root}/a")

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)), b"\r\n\x00" * 400_000], ids=len)
    async def test_bytes_come_back_as_they_were_put(self, blobs: Blobs, root: str, data: bytes) -> None:
        tag = await blobs.put(f"{root}/a", data)
        assert await blobs.get(f"{root}/a") == (data, tag)

    async def test_a_put_replaces_the_whole_blob_and_its_tag(self, blobs: Blobs, root: str) -> None:
        first = await blobs.put(root, b"a longer text")
        second = await blobs.put(root, b"short")
        assert first != second
        assert await blobs.get(root) == (b"short", second)

    async def test_if_none_match_creates_only(self, blobs: Blobs, root: str) -> None:
        tag = await blobs.put(root, b"1", if_none_match=True)
        with pytest.raises(BlobConflict):
            await blobs.put(root, b"2", if_none_match=True)
        assert await blobs.get(root) == (b"1", tag)
        await blobs.delete(root)
        await blobs.put(root, b"3", if_none_match=True)

    async def test_if_match_replaces_that_very_blob_only(self, blobs: Blobs, root: str) -> None:
        with pytest.raises(BlobConflict):
            await blobs.put(root, b"0", if_match="none")
        first = await blobs.put(root, b"1")
        second = await blobs.put(root, b"2", if_match=first)
        with pytest.raises(BlobConflict):
            await blobs.put(root, b"3", if_match=first)
        assert await blobs.get(root) == (b"2", second)
        await blobs.delete(root)
        with pytest.raises(BlobConflict):
            await blobs.put(root, b"3", if_match=second)
        assert await blobs.get(root) is None

    async def test_of_parallel_writers_one_wins(self, blobs: Blobs, root: str) -> None:
        creating = (blobs.put(root, b"%d" % n, if_none_match=True) for n in range(12))
        answers = await asyncio.gather(*creating, return_exceptions=True)
        (tag,) = [answer for answer in answers if isinstance(answer, str)]
        assert sum(isinstance(answer, BlobConflict) for answer in answers) == 11
        replacing = (blobs.put(root, b"x%d" % n, if_match=tag) for n in range(12))
        answers = await asyncio.gather(*replacing, return_exceptions=True)
        assert sum(isinstance(answer, str) for answer in answers) == 1
        assert sum(isinstance(answer, BlobConflict) for answer in answers) == 11

    async def test_a_reader_never_sees_a_mixture(self, blobs: Blobs, root: str) -> None:
        await blobs.put(root, b"0" * 200_000)

        async def write(n: int) -> None:
            for _ in range(5):
                await blobs.put(root, b"%d" % n * 200_000)

        async def read() -> None:
            for _ in range(20):
                found = await blobs.get(root)
                assert found is not None
                assert len(found[0]) == 200_000
                assert len(set(found[0])) == 1

        await asyncio.gather(*(write(n) for n in range(4)), *(read() for _ in range(4)))

    async def test_list_pages_in_order_of_names(self, blobs: Blobs, root: str) -> None:
        names = [f"{root}/{end}" for end in ("b", "a/b", "a-b", "a/b/c", "a:b", "ab", "a_b", "A", "a/bc", "9", "a.b")]
        names.append(f"{root}0/a")
        for name in names:
            await blobs.put(name, b"x")
        assert await blobs.list(root, "", 1000) == sorted(names)
        assert await blobs.list(f"{root}/", "", 1000) == sorted(names)[:-1]
        assert await blobs.list(f"{root}/a/b", "", 1000) == sorted(n for n in names if n.startswith(f"{root}/a/b"))
        paged: list[str] = []
        while page := await blobs.list(f"{root}/", paged[-1] if paged else "", 3):
            assert len(page) <= 3
            paged += page
        assert paged == sorted(names)[:-1]
        assert await blobs.list(f"{root}/nothing", "", 5) == []
        assert await blobs.list(f"{root}/a", f"{root}/z", 5) == []
        await blobs.delete(f"{root}/a/b")
        assert f"{root}/a/b" not in await blobs.list(root, "", 1000)

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "../a",
            "a/../b",
            "a/.",
            ".a",
            "a\\b",
            "a b",
            "é",
            "a\n",
            "a\x00",
            "x" * 129,
            "/".join("a" * 9),
            "/".join(["x" * 100] * 6),
        ],
        ids=repr,
    )
    async def test_other_names_are_rejected(self, blobs: Blobs, name: str) -> None:
        for call in (blobs.put(name, b"x"), blobs.get(name), blobs.delete(name)):
            with pytest.raises(ValueError, match="blob name"):
                await call

    async def test_what_is_asked_wrongly_is_rejected(self, blobs: Blobs, root: str) -> None:
        with pytest.raises(ValueError, match="exclude"):
            await blobs.put(root, b"x", if_match="x", if_none_match=True)
        with pytest.raises(ValueError, match="bytes"):
            await blobs.put(root, "x")  # type: ignore[arg-type]  # meant
        for prefix, after, limit in (("é", "", 1), ("", "a b", 1), ("", "", 0), ("", "", 1001)):
            with pytest.raises(ValueError, match=r"prefix and after|limit"):
                await blobs.list(prefix, after, limit)
        assert await blobs.get(root) is None

    async def test_names_of_every_length_and_kind_are_kept(self, blobs: Blobs, root: str) -> None:
        names = [
            f"{root}/{'x' * 128}",
            f"{root}/a/b/c/d/e/f/g",
            f"{root}/a:b_c-d.e",
            f"{root}/{'/'.join(['y' * 90] * 5)}",
        ]
        for name in names:
            await blobs.put(name, name.encode())
        for name in names:
            found = await blobs.get(name)
            assert found is not None
            assert found[0] == name.encode()

    async def test_a_closed_store_is_unavailable(self, blobs: Blobs, root: str) -> None:
        await blobs.put(root, b"x")
        await blobs.close()
        await blobs.close()
        for call in (blobs.put(root, b"x"), blobs.get(root), blobs.delete(root), blobs.list("", "", 1)):
            with pytest.raises(BlobsUnavailable):
                await call
