"""The answer spool: order and values survive memory and file, the end and errors come last."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.answer_spool import AnswerSpool, AnswerSpoolPolicy
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks, Mask, Rle, Summary
from service.media.spool import Spool


def frame(index: int, *, weight: int = 100) -> FrameMasks:
    mask = Mask("sounding", 0.1 + index / 7, index, (1, 2, 3, 4), Rle((240, 320), "0" * weight + "é\n"))
    return FrameMasks(index / 3, index / 7, index, (mask,) * (index % 3))


async def drained(spool: AnswerSpool) -> list[object]:
    return [event async for event in spool.events()]


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 4000))
async def test_frames_come_out_as_they_went_in(reads, memory_bytes):
    room = Spool(max_bytes=10**6)
    spool = AnswerSpool(AnswerSpoolPolicy(memory_bytes=memory_bytes), room)
    events = spool.events()
    wanted = [frame(index) for index in range(40)]
    got = []
    for index, item in enumerate(wanted):
        spool.put(item)
        for _ in range(reads[index] if index < len(reads) else 0):
            if len(got) <= index:
                got.append(await anext(events))
    spool.end(Summary(40))
    got += [event async for event in events]
    assert got == [*wanted, Summary(40)]
    spool.close()
    assert (room.used_bytes, room.memory_bytes) == (0, 0)


async def test_memory_is_given_back_after_the_file_was_read():
    spool = AnswerSpool(AnswerSpoolPolicy(memory_bytes=1500), Spool(max_bytes=10**6))
    events = spool.events()
    for round_no in range(5):
        for index in range(20):
            spool.put(frame(index))
        for index in range(20):
            assert await anext(events) == frame(index), round_no
    spool.close()


async def test_a_reader_waits_for_the_writer():
    spool = AnswerSpool(AnswerSpoolPolicy(), Spool(max_bytes=10**6))
    reading = asyncio.create_task(drained(spool))
    await asyncio.sleep(0)
    spool.put(frame(1))
    await asyncio.sleep(0)
    spool.end(Summary(1))
    assert await reading == [frame(1), Summary(1)]


async def test_an_error_comes_after_what_was_ready_and_the_first_end_counts():
    spool = AnswerSpool(AnswerSpoolPolicy(memory_bytes=0), Spool(max_bytes=10**6))
    spool.put(frame(1))
    spool.end(ServiceError("broken", "here"))
    spool.end(Summary(1))
    events = spool.events()
    assert await anext(events) == frame(1)
    with pytest.raises(ServiceError, match="broken"):
        await anext(events)
    spool.close()


async def test_the_file_is_bounded_and_nameless(tmp_path: Path):
    room = Spool(tmp_path, max_bytes=10_000)
    spool = AnswerSpool(AnswerSpoolPolicy(memory_bytes=0, max_bytes=1000), room)
    spool.put(frame(1))
    assert os.listdir(tmp_path) == []
    with pytest.raises(ServiceError, match="storage_full"):
        spool.put(frame(2, weight=2000))
    spool.close()
    spool.close()
    assert room.used_bytes == 0


async def test_all_answers_share_one_bound_and_nobody_takes_it_alone(tmp_path: Path):
    """One caller's answers fill four fifths of the spool; another caller's answer still finds room."""
    room = Spool(tmp_path, max_bytes=100_000, max_memory_bytes=0)
    greedy = [AnswerSpool(AnswerSpoolPolicy(), room, party="greedy") for _ in range(3)]

    def fill() -> None:
        for number in range(1000):
            greedy[number % 3].put(frame(1, weight=1000))

    with pytest.raises(ServiceError, match="storage_full"):
        fill()
    assert 70_000 < room.used_bytes <= 80_000
    modest = AnswerSpool(AnswerSpoolPolicy(), room, party="modest")
    modest.put(frame(1, weight=1000))
    for spool in (*greedy, modest):
        spool.close()
    assert room.used_bytes == 0


async def test_memory_for_answers_is_bounded_over_all_of_them(tmp_path: Path):
    room = Spool(tmp_path, max_bytes=10**6, max_memory_bytes=5000)
    spools = [AnswerSpool(AnswerSpoolPolicy(), room) for _ in range(10)]
    for spool in spools:
        spool.put(frame(1, weight=1000))
    assert 0 < room.memory_bytes <= 5000
    assert room.used_bytes > 0, "the rest is on disk"
    for spool in spools:
        spool.end(Summary(1))
        assert await drained(spool) == [frame(1, weight=1000), Summary(1)]
        spool.close()
    assert (room.used_bytes, room.memory_bytes) == (0, 0)
