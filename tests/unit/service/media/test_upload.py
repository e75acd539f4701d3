"""Uploads: bounds, growth, digests, and what is left behind (nothing)."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path

import pytest

from service.domain.errors import ServiceError
from service.media import upload as upload_module
from service.media.spool import Spool


async def test_bytes_and_digest_are_what_was_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1 << 24)
    upload = await spool.open_upload(max_bytes=1 << 23)
    pieces = [b"a" * 1000, b"", b"b" * 700_000]  # the last one is large enough for the thread
    for piece in pieces:
        await upload.write(piece)
    upload.finish()
    whole = b"".join(pieces)
    assert upload.size == len(whole)
    assert upload.is_complete
    assert upload.sha256 == hashlib.sha256(whole).hexdigest()
    assert os.pread(upload.fd, len(whole) + 1, 0) == whole
    upload.close()


async def test_nothing_has_a_name_and_close_gives_the_room_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1000)
    upload = await spool.open_upload(max_bytes=1000)
    await upload.write(b"x" * 1000)
    assert os.listdir(tmp_path) == []
    assert spool.used_bytes == 1000
    upload.close()
    upload.close()
    assert spool.used_bytes == 0


async def test_the_descriptor_cannot_be_written_through(tmp_path: Path) -> None:
    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    with pytest.raises(OSError, match="descriptor"):
        os.write(upload.fd, b"x")
    upload.close()


async def test_an_upload_over_its_limit_is_refused(tmp_path: Path) -> None:
    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=10)
    await upload.write(b"x" * 10)
    with pytest.raises(ServiceError, match="limit of 10 bytes") as caught:
        await upload.write(b"x")
    assert caught.value.code == "upload_too_large"
    upload.close()


async def test_uploads_share_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=15)
    first = await spool.open_upload(max_bytes=10)
    second = await spool.open_upload(max_bytes=10)
    await first.write(b"x" * 10)
    with pytest.raises(ServiceError) as caught:
        await second.write(b"x" * 6)
    assert caught.value.code == "storage_full"
    first.close()
    await second.write(b"x" * 6)
    second.close()


async def test_a_full_disk_is_storage_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    monkeypatch.setattr(upload_module.os, "write", full)
    with pytest.raises(ServiceError) as caught:
        await upload.write(b"x")
    assert caught.value.code == "storage_full"
    monkeypatch.undo()
    upload.close()


async def test_readers_wake_when_it_grows_ends_or_fails(tmp_path: Path) -> None:
    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    half = asyncio.create_task(upload.wait_for(5))
    whole = asyncio.create_task(upload.wait_for(100))
    await upload.write(b"x" * 5)
    assert await half == 5
    assert not whole.done()
    upload.finish()
    assert await whole == 5
    upload.close()

    cut = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    waiting = asyncio.create_task(cut.wait_for(5))
    await asyncio.sleep(0)
    cut.abort(ServiceError("slow_upload", "too slow"))
    with pytest.raises(ServiceError, match="too slow"):
        await waiting
    with pytest.raises(ServiceError, match="too slow"):
        await cut.write(b"x")
    cut.close()


async def test_data_after_the_end_is_refused(tmp_path: Path) -> None:
    upload = await Spool(tmp_path, max_bytes=1000).open_upload(max_bytes=1000)
    upload.finish()
    with pytest.raises(ServiceError) as caught:
        await upload.write(b"x")
    assert caught.value.code == "malformed_body"
    upload.close()
