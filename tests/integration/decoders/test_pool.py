"""The decoder pool with real children: samples, order, growth, deaths, cancellations, and nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.components.decoding import decode_here, make_job
from support.components.pools import (
    HANG_S,
    code_of,
    decode_through,
    gone,
    known,
    limits_of,
    make_request,
    read_all,
    running_pool,
    soon,
    status_of,
    uploaded,
)
from support.inputs.clips import ClipSpec, make_clip
from support.inputs.hostile import find
from support.inputs.odd_clips import odd_clip

from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.media.decoders.pool import DecoderPool, MediaPolicy
from service.media.upload import Upload
from service.telemetry.metrics import Metrics

PROCESS = psutil.Process()


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DecoderPool]:
    monkeypatch.setenv("AVES_TEST_SECRET", "not for decoders")
    async with running_pool() as running:
        yield running


def oom_score_of(pid: int) -> int:
    """How much the kernel prefers to end this process when memory runs out, -1000 to 1000."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def zygote_of() -> psutil.Process:
    """The only zygote."""
    (zygote,) = PROCESS.children()
    return zygote


async def decode_killing(pool: DecoderPool, upload: Upload, number: int) -> None:
    """Decode all frames, and send the child a signal at each block."""
    async with pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()) as reader:
        async for _ in reader.blocks():
            os.kill(reader.pid, number)


@pytest.mark.parametrize("name", ["hlg", "pq"])
async def test_a_child_converts_hdr_within_its_limits(pool: DecoderPool, tmp_path: Path, name: str) -> None:
    data = odd_clip(name)
    here = decode_here(data, make_job(fps=5))
    async with uploaded(data, tmp_path) as upload, pool.open(upload, make_request(fps=5), deadline=soon()) as reader:
        through = await read_all(reader)
    np.testing.assert_array_equal(here.frames, through.frames)


async def test_a_child_gives_what_the_same_process_gives(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=75)
    here = decode_here(data, make_job(fps=5))
    async with uploaded(data, tmp_path) as upload, pool.open(upload, make_request(fps=5), deadline=soon()) as reader:
        assert known(reader.clip)
        through = await read_all(reader)
    np.testing.assert_array_equal(here.frames, through.frames)
    np.testing.assert_array_equal(here.windows, through.windows)
    np.testing.assert_array_equal(here.sample_times_s, through.sample_times_s)
    assert here.clip == through.clip


async def test_children_are_jailed(pool: DecoderPool, tmp_path: Path) -> None:
    features = pool.features()
    assert features["seccomp"] is True
    assert features["zygote_seccomp"] is True
    assert str(features["ffmpeg"]) >= "8.1.2"
    data = make_clip(num_frames=500, gop=10)
    async with (
        uploaded(data, tmp_path) as upload,
        pool.open(upload, make_request(fps=None, side_px=224), deadline=soon()) as reader,
    ):
        child = psutil.Process(reader.pid)
        status, limits = await asyncio.to_thread(status_of, child.pid), await asyncio.to_thread(limits_of, child.pid)
        assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
        assert int(status["Seccomp_filters"]) == 3  # the zygote's, the child's, and the narrower one with a job
        assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")] == [0, 0, 0]
        assert child.num_fds() == 5  # three that lead nowhere, the upload, the socket
        assert limits["Max file size"] == ("0", "0")
        assert limits["Max processes"] == ("0", "0")
        assert limits["Max open files"] == ("64", "64")
        # whatever pictures the media bring: the zygote maps 0.6 GiB, most of it libraries that are never touched
        assert int(limits["Max address space"][1]) < 1 << 30
        names = {os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in (0, 1, 2)}
        assert names == {os.devnull}
        assert oom_score_of(child.pid) == 1000
        assert child.nice() == min(19, psutil.Process().nice() + 5)


async def test_children_are_walled_off(pool: DecoderPool, tmp_path: Path) -> None:
    """As far as this kernel and this user allow, which `/version` tells."""
    features = pool.features()
    assert features["own_user"] is (os.geteuid() == 0)
    assert not (features["own_user"] and features["user_namespace"])
    data = make_clip(num_frames=500, gop=10)
    request = make_request(fps=None, side_px=224)
    async with (
        uploaded(data, tmp_path) as upload,
        pool.open(upload, request, deadline=soon()) as one,
        pool.open(upload, request, deadline=soon()) as other,
    ):
        if features["own_user"]:
            users = {status_of(pid)["Uid"] for pid in (one.pid, other.pid, os.getpid())}
            groups = {status_of(pid)["Groups"] for pid in (one.pid, other.pid)}
            assert len(users) == 3
            assert groups == {""}
        for name, key in (("user", "user_namespace"), ("pid", "pid_namespace"), ("net", "network_namespace")):
            spaces = {os.readlink(f"/proc/{pid}/ns/{name}") for pid in (one.pid, os.getpid())}
            assert len(spaces) == (2 if features[key] else 1), name
        if features["empty_root"]:
            assert os.listdir(f"/proc/{one.pid}/root") == []
        if features["pid_namespace"]:
            assert len(status_of(one.pid)["NSpid"].split()) == 2


async def test_the_zygote_is_locked_in(pool: DecoderPool) -> None:
    zygote = zygote_of()
    status = await asyncio.to_thread(status_of, zygote.pid)
    assert (status["Seccomp"], status["NoNewPrivs"], status["Threads"]) == ("2", "1", "1")
    kept = 0b11100000 if pool.features()["own_user"] else 0  # to end children and to change users
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")] == [kept, kept, 0]
    assert "AVES_TEST_SECRET" not in zygote.environ()
    assert oom_score_of(zygote.pid) >= 500


async def test_decoders_are_handed_out_in_order(tmp_path: Path) -> None:
    data = make_clip(num_frames=10)
    order: list[int] = []
    async with running_pool(num_decoders=1) as pool, uploaded(data, tmp_path) as upload:

        async def one(number: int) -> None:
            async with pool.open(upload, make_request(), deadline=soon()) as reader:
                order.append(number)
                await read_all(reader)

        await asyncio.gather(*(one(number) for number in range(6)))
        assert order == list(range(6))


async def test_a_full_pool_keeps_to_the_deadline(tmp_path: Path) -> None:
    data = make_clip(num_frames=10)
    async with running_pool(num_decoders=1) as pool, uploaded(data, tmp_path) as upload:
        async with pool.open(upload, make_request(), deadline=soon()):
            with pytest.raises(ServiceError) as caught:
                async with pool.open(upload, make_request(), deadline=Deadline.after(0.05, clock=time.monotonic)):
                    pass
        assert caught.value.code == "deadline_exceeded"
        assert len((await decode_through(pool, upload)).frames) == 1


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
async def test_samples_come_before_the_upload_ends(pool: DecoderPool, tmp_path: Path, movflags: str) -> None:
    data = make_clip(num_frames=100, gop=10, movflags=movflags)
    cut = len(data) * 6 // 10
    async with (
        uploaded(data[:cut], tmp_path, is_complete=False) as upload,
        pool.open(upload, make_request(fps=5), deadline=soon()) as reader,
    ):
        blocks = reader.blocks()
        first = await anext(blocks)
        assert not upload.is_complete
        await upload.write(data[cut:])
        upload.finish()
        num = len(first) + sum([len(block) async for block in blocks])
        assert known(reader.clip)
    assert num == len(decode_here(data, make_job(fps=5)).frames)


async def test_a_slow_upload_holds_no_decoder(tmp_path: Path) -> None:
    data = make_clip(num_frames=100, gop=10, movflags="faststart")
    async with (
        running_pool(num_decoders=1) as pool,
        uploaded(data[:2000], tmp_path, is_complete=False) as slow,
        uploaded(data, tmp_path) as quick,
    ):
        waiting = [asyncio.create_task(decode_through(pool, slow)) for _ in range(3)]
        for _ in range(3):
            assert (await decode_through(pool, quick)).clip.num_samples == 4
        assert not any(task.done() for task in waiting)
        await slow.write(data[2000:])
        slow.finish()
        assert [decoded.clip.num_samples for decoded in await asyncio.gather(*waiting)] == [4, 4, 4]


async def test_an_index_at_the_end_waits_for_the_end(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=50)
    async with uploaded(data[:-100], tmp_path, is_complete=False) as upload:
        decoding = asyncio.create_task(decode_through(pool, upload))
        await asyncio.sleep(0.1)
        assert not decoding.done()
        await upload.write(data[-100:])
        upload.finish()
        assert (await decoding).clip.num_samples == 2


async def test_a_growing_upload_that_fails_fails_its_decoding(pool: DecoderPool, tmp_path: Path) -> None:
    data = make_clip(num_frames=100, movflags="faststart")
    async with uploaded(data[:-5000], tmp_path, is_complete=False) as upload:
        decoding = asyncio.create_task(decode_through(pool, upload))
        await asyncio.sleep(0.05)
        upload.abort(ServiceError("slow_upload", "too slow"))
        with pytest.raises(ServiceError, match="too slow"):
            await decoding
    await gone(pool)


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov+default_base_moof"])
async def test_a_growing_upload_that_ends_short_is_truncated(pool: DecoderPool, tmp_path: Path, movflags: str) -> None:
    data = make_clip(num_frames=100, gop=10, movflags=movflags)
    async with uploaded(data[: find(data, "mdat") + 3000], tmp_path, is_complete=False) as upload:
        decoding = asyncio.create_task(decode_through(pool, upload))
        await asyncio.sleep(0.05)
        upload.finish()
        with pytest.raises(ServiceError) as caught:
            await decoding
        assert caught.value.code == "truncated"


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


async def test_children_that_die_before_their_job_are_replaced(pool: DecoderPool, tmp_path: Path) -> None:
    await code_of(pool, make_clip(), tmp_path)
    for _ in range(3):
        for child in zygote_of().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # ended with the first process of its namespace
                child.kill()
        assert await code_of(pool, make_clip(), tmp_path) == "ok"


async def test_variable_rate_through_a_child(pool: DecoderPool, tmp_path: Path) -> None:
    spec = ClipSpec(frame_ticks=[0, 100, 5000, 5100, 20_000], num_frames=5)
    async with uploaded(make_clip(spec), tmp_path) as upload:
        decoded = await decode_through(pool, upload, make_request(fps=None))
    assert decoded.timestamps_s.tolist() == [0, 0.007812, 0.390625, 0.398438, 1.5625]


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
