"""Decoder children and zygotes that die, hang or are cancelled: what is answered, and nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support.components.decoding import decode_here, make_job
from support.components.pools import (
    HANG_S,
    code_of,
    decode_through,
    gone,
    limits_of,
    make_request,
    running_pool,
    soon,
    uploaded,
    zygote_of,
)
from support.inputs.clips import make_clip
from support.waiting import until

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media.decoders.pool import DecoderPool, MediaPolicy
from service.media.upload import Upload
from service.telemetry.metrics import Metrics

PROCESS = psutil.Process()


async def decode_killing(pool: DecoderPool, upload: Upload, number: int) -> None:
    """Decode all frames, and send the child a signal at each block."""
    async with pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()) as reader:
        async for _ in reader.blocks():
            os.kill(reader.pid, number)


async def test_a_killed_child_is_replaced_and_nothing_is_lost_or_repeated(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=100, gop=20)
    whole = decode_here(data, make_job(fps=None, side_px=224))
    async with (
        uploaded(data, tmp_path) as upload,
        pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()) as reader,
    ):
        times: list[float] = []
        async for block in reader.blocks():
            if not times:
                os.kill(reader.pid, signal.SIGKILL)
            times += block.sample_times_s.tolist()
    assert times == whole.sample_times_s.tolist()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, "decoder_gone"), (signal.SIGSEGV, "broken")])
async def test_a_child_that_dies_twice_is_given_up(pool: DecoderPool, tmp_path: Path, number: int, code: str) -> None:
    data = make_clip(num_frames=120, gop=20)
    async with uploaded(data, tmp_path) as upload:
        with pytest.raises(ServiceError) as caught:
            await decode_killing(pool, upload, number)
        assert caught.value.code == code
        assert (await decode_through(pool, upload)).clip.num_samples == 4


async def test_a_child_over_its_cpu_budget_is_too_costly(pool: DecoderPool, tmp_path: Path) -> None:
    async with uploaded(make_clip(num_frames=120, gop=20), tmp_path) as upload:
        with pytest.raises(ServiceError) as caught:
            await decode_killing(pool, upload, signal.SIGXCPU)
        assert caught.value.code == "too_costly"


async def test_a_stopped_child_meets_the_deadline_and_not_a_slow_reader(tmp_path: Path) -> None:
    data = make_clip(num_frames=120, gop=20)
    request = make_request(fps=None, side_px=224)
    async with running_pool(policy=MediaPolicy(progress_s=1.5)) as pool, uploaded(data, tmp_path) as upload:
        async with pool.open(upload, request, deadline=soon()) as reader:
            blocks = reader.blocks()
            await anext(blocks)
            await asyncio.sleep(2.0)  # nobody reads: the clock of the child stands still
            await anext(blocks)
            os.kill(reader.pid, signal.SIGSTOP)
            with pytest.raises(ServiceError) as caught:
                async for _ in blocks:
                    pass
        assert caught.value.code == "deadline_exceeded"
        assert "no progress" in caught.value.detail  # the request's own deadline is far away
        await gone(pool)


async def test_the_zygote_is_replaced(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=100, gop=20)
    async with uploaded(data, tmp_path) as upload:
        async with pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()) as reader:
            blocks = reader.blocks()
            num = len(await anext(blocks))
            zygote = psutil.Process(reader.pid).parent()
            zygote.kill()
            num += sum([len(block) async for block in blocks])
            assert num == 100
        assert pool.is_healthy()
        assert (await decode_through(pool, upload)).clip.num_samples == 4


async def test_a_zygote_that_cannot_be_started_now_is_tried_again(
    pool: DecoderPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    (zygote,) = PROCESS.children()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # no descriptor more for anyone
        os.kill(zygote.pid, signal.SIGKILL)
        async with asyncio.timeout(HANG_S):
            while "could not be started" not in caplog.text:
                await asyncio.sleep(0.01)
        assert not pool.is_healthy()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await code_of(pool, make_clip(), tmp_path) == "ok"
    assert pool.is_healthy()


async def test_cancellations_leave_nothing(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=100, gop=20)
    async with uploaded(data, tmp_path) as upload:
        await decode_through(pool, upload)
        await gone(pool)
        num_fds = PROCESS.num_fds()
        for number in range(40):
            task = asyncio.create_task(decode_through(pool, upload, make_request(fps=None, side_px=224)))
            await asyncio.sleep(0.002 * number)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await gone(pool)
        assert PROCESS.num_fds() == num_fds
        assert all(limits_of(child.pid)["Max address space"][1] == "unlimited" for child in zygote_of().children())
        assert (await decode_through(pool, upload)).clip.num_samples == 4


async def test_closing_ends_every_process(tmp_path: Path) -> None:
    before = set(PROCESS.children(recursive=True))
    data = make_clip(num_frames=120, gop=20)
    async with (
        running_pool() as pool,
        uploaded(data, tmp_path) as upload,
        pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()),
    ):
        during = set(PROCESS.children(recursive=True)) - before
        assert len(during) >= 2  # with those that wait for a job
        await pool.aclose()
        _, alive = psutil.wait_procs(during, timeout=HANG_S)
        assert not alive


async def test_failures_are_counted_by_code(tmp_path: Path) -> None:
    metrics = Metrics()
    async with running_pool(metrics=metrics) as pool:
        assert await code_of(pool, b"no video", tmp_path) == "not_mp4"
    assert metrics.registry.get_sample_value("avesformer_decode_failures_total", {"code": "not_mp4"}) == 1


async def test_a_zygote_that_hangs_is_replaced_and_readiness_tells(pool: DecoderPool, tmp_path: Path) -> None:
    stopped = zygote_of()
    stopped.suspend()
    async with asyncio.timeout(HANG_S):
        decoding = asyncio.create_task(code_of(pool, make_clip(), tmp_path))
        while pool.is_healthy():
            await asyncio.sleep(0.01)
        assert not stopped.is_running()
        assert await decoding == "ok"
    assert pool.is_healthy()
    assert zygote_of() != stopped


async def test_a_zygote_that_hangs_keeps_nobody_past_the_deadline(pool: DecoderPool, tmp_path: Path) -> None:
    zygote_of().suspend()
    async with uploaded(make_clip(), tmp_path) as upload:
        with pytest.raises(ServiceError) as caught:
            async with pool.open(upload, make_request(), deadline=Deadline.after(0.1, clock=time.monotonic)):
                pass
    assert caught.value.code == "deadline_exceeded"


async def test_a_busy_zygote_is_left_alone(pool: DecoderPool) -> None:
    zygote = zygote_of()
    zygote.suspend()
    await asyncio.sleep(1.5)
    zygote.resume()
    await asyncio.sleep(3.0)
    assert zygote_of() == zygote


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_children_that_die_before_their_job_are_replaced(pool: DecoderPool, tmp_path: Path) -> None:
    await code_of(pool, make_clip(), tmp_path)
    for _ in range(3):
        children = zygote_of().children()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended with the first process of its namespace
                child.kill()
        await until(lambda children=children: all(map(has_ended, children)))  # a dying child still takes a job
        assert await code_of(pool, make_clip(), tmp_path) == "ok"


_HELD_OPEN = """
import asyncio, sys
from pathlib import Path
from support.inputs.clips import make_clip
from support.components.pools import make_request, running_pool, soon, uploaded
async def main():
    async with running_pool() as pool, uploaded(make_clip(num_frames=120), Path(sys.argv[1])) as upload:
        async with pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()) as reader:
            print(reader.pid, flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""


def test_decoders_end_with_a_service_that_is_killed(tmp_path: Path) -> None:
    service = subprocess.Popen(
        [sys.executable, "-c", _HELD_OPEN, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ".:tests", "PATH": "/usr/bin:/bin"},
    )
    with service:
        assert service.stdout is not None
        child = psutil.Process(int(service.stdout.readline()))
        family = [child, child.parent()]
        service.kill()
    _, alive = psutil.wait_procs(family, timeout=HANG_S)
    assert not alive
    assert os.listdir(tmp_path) == []
