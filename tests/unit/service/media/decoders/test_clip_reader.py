"""A reader against children that lie: each is a script at the other end of a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.components.pools import make_request, soon, uploaded

from service.aio.byte_budget import ByteBudget
from service.domain.chunk import WINDOW_SAMPLES, SampleBlock
from service.domain.clip import ClipInfo
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media import framing
from service.media.core_use import CoreUse
from service.media.decoders.clip_reader import ClipReader
from service.media.decoders.slot import DecoderSlots, Slot
from service.media.decoders.zygote_link import Child
from service.media.policy import MediaPolicy

HANG_S = 20.0
CLIP = ClipInfo(64, 48, "1:1", 1.0, 25.0, None)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class ScriptedLink:
    """Stands in for ZygoteLink: the children are tasks that follow `scripts`, the last one again and again."""

    def __init__(self, scripts: Iterable[Talk]) -> None:
        self._scripts = list(scripts)
        self.num_spawned = 0
        self._tasks: dict[Child, asyncio.Task[None]] = {}

    async def spawn(self, kind: str, job: dict[str, Any], fds: list[int]) -> Child:
        loop = asyncio.get_running_loop()
        child = Child(self.num_spawned, loop.create_future(), loop.create_future())
        script = self._scripts[min(self.num_spawned, len(self._scripts) - 1)]
        self.num_spawned += 1
        streams = await asyncio.open_connection(sock=socket.socket(fileno=os.dup(fds[0])))
        self._tasks[child] = asyncio.create_task(self._live(child, script, *streams))
        child.spawned.set_result(os.getpid())
        return child

    async def _live(self, child: Child, script: Talk, read: asyncio.StreamReader, write: asyncio.StreamWriter) -> None:
        code = 0
        try:
            await script(read, write)
        except asyncio.CancelledError:
            code = -signal.SIGKILL
        except OSError:
            code = 1
        write.close()
        with suppress(OSError):
            await write.wait_closed()
        child.exited.set_result(code)
        for callback in child.on_exit:
            callback()

    def kill(self, child: Child) -> None:
        self._tasks[child].cancel()

    async def aclose(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


@asynccontextmanager
async def reading(
    tmp_path: Path, *scripts: Talk, policy: MediaPolicy | None = None, deadline: Deadline | None = None
) -> AsyncIterator[tuple[ClipReader, ScriptedLink]]:
    """A reader of an upload whose children follow the scripts."""
    link = ScriptedLink(scripts)
    deadline = deadline or soon()
    async with asyncio.timeout(HANG_S), uploaded(b"x" * 100, tmp_path) as upload:
        slot = Slot(DecoderSlots(1, CoreUse(1)), ByteBudget(1 << 30), upload, deadline, time.monotonic)
        reader = ClipReader(
            link,  # type: ignore[arg-type]
            policy or MediaPolicy(),
            upload,
            make_request(),
            slot=slot,
            deadline=deadline,
            clock=time.monotonic,
        )
        try:
            yield reader, link
        finally:
            reader.close()
            await link.aclose()


async def failure_of(reader: ClipReader) -> ServiceError:
    """Why decoding stopped."""
    try:
        await reader.start()
        async for _ in reader.blocks():
            pass
    except ServiceError as error:
        return error
    raise AssertionError("decoding ended well")


def sends(*messages: bytes) -> Talk:
    """A child that sends these and ends."""

    async def talk(read: asyncio.StreamReader, write: asyncio.StreamWriter) -> None:
        for message in messages:
            write.write(message)
        await write.drain()

    return talk


def repeats(message: bytes, *, pause_s: float, first: bytes = b"") -> Talk:
    """A child that sends one message for ever."""

    async def talk(read: asyncio.StreamReader, write: asyncio.StreamWriter) -> None:
        write.write(first)
        while True:
            write.write(message)
            await write.drain()
            await asyncio.sleep(pause_s)

    return talk


def clip_message(kind: int = framing.CLIP) -> bytes:
    return framing.pack_clip(kind, CLIP)


def block_message() -> bytes:
    block = SampleBlock(
        frames=np.zeros((1, 32, 32, 3), np.uint8),
        audio=np.zeros(WINDOW_SAMPLES, np.int16),
        offsets=np.zeros(1, np.int64),
        sample_times_s=np.array([0.5]),
        timestamps_s=np.array([0.5]),
        indexes=np.array([0]),
    )
    return b"".join(framing.pack_block(block))


PROGRESS = framing.pack(framing.PROGRESS)


async def test_an_honest_child_is_read_to_its_end(tmp_path: Path) -> None:
    honest = sends(PROGRESS, clip_message(), PROGRESS, block_message(), clip_message(framing.END))
    async with reading(tmp_path, honest) as (reader, link):
        await reader.start()
        assert [len(block) async for block in reader.blocks()] == [1]
        assert link.num_spawned == 1


async def test_a_child_that_only_says_it_works_meets_a_wall_clock(tmp_path: Path) -> None:
    busy = repeats(PROGRESS, pause_s=0.05)
    async with reading(tmp_path, busy, policy=MediaPolicy(max_wall_s=0.5, progress_s=5.0)) as (reader, link):
        error = await failure_of(reader)
        assert error.code == "too_costly"
        assert "0.5 s" in error.detail
        assert link.num_spawned == 1


async def test_the_wall_clock_runs_on_after_the_clip_is_known(tmp_path: Path) -> None:
    busy = repeats(PROGRESS, pause_s=0.05, first=clip_message() + block_message())
    async with reading(tmp_path, busy, policy=MediaPolicy(max_wall_s=0.5, progress_s=5.0)) as (reader, _):
        assert (await failure_of(reader)).code == "too_costly"


async def test_the_wall_clock_stands_still_while_nobody_reads(tmp_path: Path) -> None:
    async def slow(read: asyncio.StreamReader, write: asyncio.StreamWriter) -> None:
        write.write(clip_message())
        await asyncio.sleep(0.8)
        write.write(block_message() + clip_message(framing.END))
        await write.drain()

    async with reading(tmp_path, slow, policy=MediaPolicy(max_wall_s=0.5)) as (reader, _):
        await reader.start()
        await asyncio.sleep(1.0)
        assert [len(block) async for block in reader.blocks()] == [1]


async def test_the_deadline_comes_before_the_wall_clock(tmp_path: Path) -> None:
    busy = repeats(PROGRESS, pause_s=0.05)
    deadline = Deadline.after(0.3, clock=time.monotonic)
    async with reading(tmp_path, busy, deadline=deadline) as (reader, _):
        error = await failure_of(reader)
        assert error.code == "deadline_exceeded"
        assert "longer timeout" in error.detail


async def test_silence_is_not_blamed_on_the_deadline(tmp_path: Path) -> None:
    silent = repeats(b"", pause_s=1.0)
    async with reading(tmp_path, silent, policy=MediaPolicy(progress_s=0.2)) as (reader, _):
        error = await failure_of(reader)
        assert error.code == "deadline_exceeded"
        assert "no progress for 0.2 s" in error.detail


@pytest.mark.parametrize(
    "lies",
    [
        repeats(PROGRESS, pause_s=0.0),
        repeats(framing.pack_need(50), pause_s=0.0),
        sends(framing.pack_need(1 << 40)),  # the upload was complete from the start
        sends(clip_message(), clip_message()),
        sends(block_message()),
        sends(clip_message(), framing.pack(framing.FRAME, b"\0" * 8)),
        sends(framing.pack(77, b"")),
        sends(b"\2\xff\xff\xff\xff"),
    ],
    ids=["flood", "old-need", "vain-need", "clip-twice", "block-first", "still", "unknown-kind", "endless"],
)
async def test_a_child_that_breaks_the_protocol_is_replaced_once(tmp_path: Path, lies: Talk) -> None:
    async with reading(tmp_path, lies) as (reader, link):
        assert (await failure_of(reader)).code == "broken"
        assert link.num_spawned == 2
    honest = sends(clip_message(), block_message(), clip_message(framing.END))
    async with reading(tmp_path, lies, honest) as (reader, link):
        await reader.start()
        assert [len(block) async for block in reader.blocks()] == [1]
