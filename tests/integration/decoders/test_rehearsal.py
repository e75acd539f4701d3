"""Spare children: the next one rehearses while no child has a job, and only then."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from support.components.decoding import decode_here, make_job
from support.components.pools import make_request, read_all, running_pool, soon, uploaded, zygote_of
from support.inputs.clips import make_clip
from support.waiting import until

from service.bench.process_usage import descendants_of

# Pages that a child has touched: some 200 when it waits for a job, over 1000 when it has decoded a clip.
_REHEARSED_PAGES = 700
_MINOR_FAULTS = 7


def pages_touched() -> dict[int, int]:
    """The pages that each living child of the zygote has touched, by process id."""
    touched: dict[int, int] = {}
    for pid in descendants_of(zygote_of().pid)[1:]:
        try:
            touched[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_MINOR_FAULTS])
        except FileNotFoundError:
            continue
    return touched


def rehearsed() -> set[int]:
    """The children that have decoded something."""
    return {pid for pid, num in pages_touched().items() if num > _REHEARSED_PAGES}


async def test_the_next_spare_rehearses_and_then_decodes_as_ever(tmp_path: Path) -> None:
    data = make_clip(num_frames=25)
    async with running_pool() as pool, uploaded(data, tmp_path) as upload:
        await until(rehearsed)
        await asyncio.sleep(0.5)
        (first,) = rehearsed()
        async with pool.open(upload, make_request(), deadline=soon()) as reader:
            assert reader.pid == first
            through = await read_all(reader)
        here = decode_here(data, make_job())
        np.testing.assert_array_equal(here.frames, through.frames)
        np.testing.assert_array_equal(here.windows, through.windows)
        await until(lambda: rehearsed() - {first})


async def test_no_spare_rehearses_while_a_child_has_a_job(tmp_path: Path) -> None:
    data = make_clip(num_frames=100, gop=10, movflags="faststart")
    half = data[: len(data) * 6 // 10]
    async with running_pool() as pool, uploaded(half, tmp_path, is_complete=False) as upload:
        async with pool.open(upload, make_request(), deadline=soon()) as reader:
            await asyncio.sleep(0.5)
            assert rehearsed() <= {reader.pid}
        await until(lambda: rehearsed() - {reader.pid})
