"""One suite each for key stores, result caches and blobs: in this process and over a real Redis or folder."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from support.components.queue_parts import REDIS_PARAM
from support.servers.redis_server import RedisServer
from support.servers.s3_server import s3_bucket

from service.domain.errors import ServiceError
from service.ports import KeyRecord, KeyStore, ResultCache
from service.redis.cache import RedisCache
from service.redis.keys import RedisKeyStore
from service.redis.link import RedisLink
from service.storage import keys as keys_folder
from service.storage.blobs import Blobs
from service.storage.cache import MemoryCache
from service.storage.keys import FolderKeyStore
from service.storage.room import StateRoom

HANG_S = 30


@pytest.fixture
async def link(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RedisLink]:
    with RedisServer(tmp_path / "redis") as server:
        made = RedisLink(server.url, clock=time.monotonic)
        yield made
        await made.aclose()


@pytest.fixture(params=["memory", "folder", REDIS_PARAM])
def keys(request: pytest.FixtureRequest, tmp_path: Path) -> KeyStore:
    if request.param != "redis":
        path = tmp_path / "keys.jsonl" if request.param == "folder" else None
        return FolderKeyStore(path, wall_clock=time.time)
    return RedisKeyStore(request.getfixturevalue("link"))


@pytest.fixture(params=["memory", REDIS_PARAM])
def cache(request: pytest.FixtureRequest) -> ResultCache:
    if request.param == "memory":
        return MemoryCache(max_bytes=1000, ttl_s=0.3, clock=time.monotonic)
    return RedisCache(request.getfixturevalue("link"), max_bytes=1000, ttl_s=0.3)


@pytest.fixture(params=["folder", "memory", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blobs]:
    if request.param != "s3":
        yield Blobs(tmp_path / "blobs" if request.param == "folder" else "memory://")
        return
    with s3_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        yield Blobs(bucket.url)


async def test_a_key_is_taken_once(keys: KeyStore) -> None:
    assert await keys.begin("scope", "print", lease_s=60) is None
    assert await keys.begin("scope", "other", lease_s=60) == KeyRecord("print", None)
    assert await keys.begin("another", "other", lease_s=60) is None


async def test_a_reply_is_remembered_for_its_time(keys: KeyStore) -> None:
    await keys.begin("scope", "print", lease_s=60)
    await keys.finish("scope", KeyRecord("print", b"\x00reply"), ttl_s=1.5)
    assert await keys.begin("scope", "print", lease_s=60) == KeyRecord("print", b"\x00reply")
    async with asyncio.timeout(HANG_S):
        while await keys.begin("scope", "new", lease_s=60) is not None:
            await asyncio.sleep(0.02)


async def test_a_forgotten_or_abandoned_key_is_free(keys: KeyStore) -> None:
    await keys.begin("scope", "print", lease_s=60)
    await keys.forget("scope")
    assert await keys.begin("scope", "new", lease_s=0.1) is None
    await keys.renew("scope", lease_s=0.2)
    async with asyncio.timeout(HANG_S):
        while await keys.begin("scope", "newer", lease_s=60) is not None:
            await asyncio.sleep(0.02)


async def test_remembered_keys_outlive_their_process(tmp_path: Path) -> None:
    path, now_s = tmp_path / "keys.jsonl", 1000.0
    first = FolderKeyStore(path, wall_clock=lambda: now_s)
    for scope, ttl_s in (("long", 60.0), ("short", 5.0), ("renewed", 5.0), ("renewed", 60.0)):
        await first.begin(scope, "print", lease_s=30)
        await first.finish(scope, KeyRecord("print", b"\xffreply"), ttl_s=ttl_s)
    await first.begin("running", "print", lease_s=30)
    with path.open("ab") as file:
        file.write(b'["cut", 99')
    now_s += 10
    second = FolderKeyStore(path, wall_clock=lambda: now_s)
    await second.begin("new", "print", lease_s=30)
    await second.finish("new", KeyRecord("print", b"new"), ttl_s=60)
    third = FolderKeyStore(path, wall_clock=lambda: now_s)
    for store in (second, third):
        assert await store.begin("long", "print", lease_s=1) == KeyRecord("print", b"\xffreply")
        assert await store.begin("renewed", "print", lease_s=1) == KeyRecord("print", b"\xffreply")
        assert await store.begin("new", "print", lease_s=1) == KeyRecord("print", b"new")
    assert [await third.begin(scope, "print", lease_s=1) for scope in ("short", "running", "cut")] == [None] * 3
    assert len(path.read_bytes().splitlines()) == 3


async def test_the_file_of_keys_does_not_grow_for_ever(tmp_path: Path) -> None:
    path, now_s = tmp_path / "keys.jsonl", 0.0
    path.write_bytes(b"".join(b'["%d", 50.0, "print", "r"]\n' % number for number in range(600)))
    store = FolderKeyStore(path, wall_clock=lambda: now_s)
    with path.open("ab") as file:
        file.write(b'["again", 50.0, "print", "r"]\n' * 600)
    store = FolderKeyStore(path, wall_clock=lambda: now_s)
    assert len(path.read_bytes().splitlines()) == 601
    now_s = 51.0
    for number in range(3):
        await store.finish(f"later {number}", KeyRecord("print", b"r"), ttl_s=600)
    store = FolderKeyStore(path, wall_clock=lambda: now_s)
    assert len(path.read_bytes().splitlines()) == 3
    assert await store.begin("later 2", "print", lease_s=1) == KeyRecord("print", b"r")


async def test_a_long_file_of_keys_is_written_anew_while_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_folder, "_LEAST_LINES", 4)
    path = tmp_path / "keys.jsonl"
    store = FolderKeyStore(path, wall_clock=time.time)
    for number in range(8):
        await store.finish(f"key {number}", KeyRecord("print", b"r"), ttl_s=0.0 if number < 4 else 60)
    assert len(path.read_bytes().splitlines()) == 4
    assert await store.begin("key 7", "print", lease_s=1) == KeyRecord("print", b"r")


async def test_a_folder_that_takes_no_more_keys_is_said_to_be_full(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    store = FolderKeyStore(path, wall_clock=time.time)
    path.mkdir()
    with pytest.raises(ServiceError) as caught:
        await store.finish("scope", KeyRecord("print", b"r"), ttl_s=60)
    assert caught.value.code == "storage_full"
    path.rmdir()
    await store.finish("other", KeyRecord("print", b"r"), ttl_s=60)
    assert len(path.read_bytes().splitlines()) == 2


async def test_keys_are_counted_and_refused_when_there_is_no_room_for_their_reply(tmp_path: Path) -> None:
    path, now_s = tmp_path / "keys.jsonl", 0.0
    room = StateRoom([tmp_path], max_bytes=4096)
    store = FolderKeyStore(path, wall_clock=lambda: now_s, room=room)
    stored: list[str] = []

    async def fill() -> None:
        while len(stored) < 100:
            scope = f"key {len(stored)}"
            await store.begin(scope, "print", lease_s=60)
            await store.finish(scope, KeyRecord("print", b"r" * 100), ttl_s=60)
            stored.append(scope)

    with pytest.raises(ServiceError, match="storage_full"):
        await fill()
    assert 10 < len(stored) < 40
    assert room.used_bytes == path.stat().st_size <= 4096
    assert await store.begin("key 3", "print", lease_s=60) == KeyRecord("print", b"r" * 100), "known keys need no room"
    now_s = 61.0
    assert await store.begin("later", "print", lease_s=60) is None, "expired lines make room"
    assert path.stat().st_size == 0
    await store.forget("later")
    assert room.used_bytes == 0


@pytest.mark.redis
async def test_a_key_whose_reply_was_lost_is_its_takers_own(link: RedisLink) -> None:
    """redis-py sends a command again when its reply was lost; here the script is, with the same words."""

    class Repeating(RedisLink):
        async def script(self, source: str, keys: list[str], words: list[str | bytes | float]) -> object:  # type: ignore[override]
            await link.script(source, keys, words)
            return await link.script(source, keys, words)

    store = RedisKeyStore(Repeating("redis://127.0.0.1:1/0", clock=time.monotonic))
    assert await store.begin("scope", "print", lease_s=60) is None
    assert await store.begin("scope", "print", lease_s=60) == KeyRecord("print", None)


async def test_a_cache_gives_back_what_it_got(cache: ResultCache) -> None:
    assert await cache.get("a") is None
    await cache.put("a", b"\x00one")
    await cache.put("b", b"two")
    await cache.put("b", b"three")
    assert (await cache.get("a"), await cache.get("b")) == (b"\x00one", b"three")


async def test_a_cache_forgets_in_time(cache: ResultCache) -> None:
    await cache.put("a", b"one")
    async with asyncio.timeout(HANG_S):
        while await cache.get("a") is not None:
            await asyncio.sleep(0.05)


async def test_a_cache_is_bounded_and_drops_the_least_used(cache: ResultCache) -> None:
    await cache.put("a", b"x" * 400)
    await asyncio.sleep(0.005)
    await cache.put("b", b"x" * 400)
    await asyncio.sleep(0.005)
    await cache.get("a")
    await asyncio.sleep(0.005)
    await cache.put("c", b"x" * 400)
    assert await cache.get("b") is None
    assert await cache.get("a") is not None
    assert await cache.get("c") is not None
    await cache.put("d", b"x" * 1001)
    assert await cache.get("d") is None
    assert await cache.get("c") is not None


@pytest.mark.redis
async def test_a_redis_cache_without_redis_has_no_hits() -> None:
    link = RedisLink("redis://127.0.0.1:1/0", clock=time.monotonic)
    cache = RedisCache(link, max_bytes=1000, ttl_s=1)
    await cache.put("a", b"one")
    assert await cache.get("a") is None
    await link.aclose()


async def test_blobs_come_back(blobs: Blobs) -> None:
    await blobs.put("jobs/1/part", b"\x00data")
    await blobs.put("jobs/1/part", b"newer")
    assert await blobs.get("jobs/1/part") == b"newer"
    assert await blobs.get("jobs/1/none") is None


async def test_large_files_come_back_in_pieces(blobs: Blobs, tmp_path: Path) -> None:
    content = os.urandom(9 * 1024**2 + 17)
    path = tmp_path / "file"
    path.write_bytes(content + b"after the end")
    fd = os.open(path, os.O_RDONLY)
    await blobs.put_file("jobs/2/upload", fd, num_bytes=len(content))
    os.close(fd)
    pieces = [piece async for piece in blobs.read("jobs/2/upload")]
    assert len(pieces) > 1
    assert b"".join(pieces) == content
    await blobs.put("jobs/2/empty", b"")
    assert b"".join([piece async for piece in blobs.read("jobs/2/empty")]) == b""
    with pytest.raises(ServiceError):
        _ = [piece async for piece in blobs.read("jobs/2/none")]


async def test_a_prefix_is_deleted_whole_and_alone(blobs: Blobs) -> None:
    for name in ("jobs/1/a", "jobs/1/2/b", "jobs/10/c"):
        await blobs.put(name, b"x")
    await blobs.delete_all("jobs/1", older_than_s=3600)
    assert await blobs.get("jobs/1/a") == b"x"
    await blobs.delete_all("jobs/1")
    assert [await blobs.get(name) for name in ("jobs/1/a", "jobs/1/2/b", "jobs/10/c")] == [None, None, b"x"]
    await blobs.delete_all("jobs/none")


async def test_one_blob_is_deleted_and_a_missing_one_is_no_error(blobs: Blobs) -> None:
    await blobs.put("jobs/1/upload", b"x")
    await blobs.put("jobs/1/upload2", b"y")
    await blobs.delete("jobs/1/upload")
    await blobs.delete("jobs/1/upload")
    assert [await blobs.get(name) for name in ("jobs/1/upload", "jobs/1/upload2")] == [None, b"y"]


async def test_a_folder_of_blobs_has_a_bound_that_a_restart_and_other_processes_keep(tmp_path: Path) -> None:
    room = StateRoom([tmp_path / "blobs"], max_bytes=1000)
    blobs = Blobs(tmp_path / "blobs", room=room)
    file = tmp_path / "upload"
    file.write_bytes(b"u" * 400)
    fd = os.open(file, os.O_RDONLY)
    await blobs.put("a", b"x" * 500)
    await blobs.put_file("b", fd, num_bytes=400)
    with pytest.raises(ServiceError) as caught:
        await blobs.put_file("c", fd, num_bytes=400)
    assert caught.value.code == "storage_full"
    assert await blobs.get("c") is None
    other_room = StateRoom([tmp_path / "blobs"], max_bytes=1000)
    again = Blobs(tmp_path / "blobs", room=other_room)
    assert other_room.used_bytes == room.used_bytes == 900
    await again.delete("a")
    assert other_room.used_bytes == 400
    await room.measure()
    await blobs.put_file("c", fd, num_bytes=400)
    await blobs.delete_all("b")  # a name is no prefix
    assert room.used_bytes == 800
    os.close(fd)


async def test_an_s3_store_that_is_away_is_said_to_be_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with s3_bucket() as bucket:
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        blobs = Blobs(bucket.url)
        missing = Blobs("s3://no-such-bucket/service")
        with pytest.raises(ServiceError) as caught:
            await missing.put("a", b"x")
        assert caught.value.code == "backend_down"
        assert "no-such-bucket" not in caught.value.detail
    fd = os.open(tmp_path, os.O_RDONLY)
    async with asyncio.timeout(HANG_S):
        for action in (
            lambda: blobs.put("a", b"x"),
            lambda: blobs.get("a"),
            lambda: anext(aiter(blobs.read("a"))),
            lambda: blobs.put_file("a", fd, num_bytes=0),
            lambda: blobs.delete_all("a"),
        ):
            with pytest.raises(ServiceError) as caught:
                await action()
            assert caught.value.code == "backend_down"
    os.close(fd)


def test_unknown_stores_are_refused() -> None:
    with pytest.raises(ValueError, match="no blob store"):
        Blobs("gopher://somewhere/else")
