"""The live example: a file in real time to an overlay, across a restart of the server."""

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import av
import pytest
from support.fleets.fault_proxy import FaultProxy
from support.inputs.clips import make_clip
from support.servers.front import running_front

from service.client.policy import ClientPolicy
from service.client.video.live_capture import CapturePolicy
from service.client.video.live_example import LiveOverlay, LivePlan
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveMasks, LiveOptions
from service.domain.result import ModelInfo, SoundEvent

HANG_S = 90.0


def plan_for(
    directory: Path, port: int, *, num_frames: int, speed: float, flash_frames: frozenset[int] = frozenset({20, 40})
) -> LivePlan:
    clip = directory / "clip.mp4"
    clip.write_bytes(make_clip(num_frames=num_frames, width=320, height=240, flash_frames=flash_frames))
    return LivePlan(
        capture=CapturePolicy(str(clip), speed=speed, max_side_px=160),
        url=f"grpc://127.0.0.1:{port}",
        output=directory / "overlay.mp4",
        options=LiveOptions(max_waiting_frames=64),
        client=ClientPolicy(attempts=50, first_backoff_s=0.1, max_backoff_s=0.5),
    )


def frames_of(path: Path) -> list[tuple[int, int]]:
    with av.open(str(path)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]


async def test_a_file_becomes_an_overlay(tmp_path: Path) -> None:
    async with running_front() as front:
        plan = plan_for(tmp_path, front.grpc_port, num_frames=75, speed=1.0)
        report = await asyncio.wait_for(asyncio.to_thread(LiveOverlay(plan).run), HANG_S)
    assert report.num_frames + report.num_dropped == 75
    assert (report.num_errors, report.num_connections) == (0, 1)
    shown = frames_of(plan.output)
    assert len(shown) == report.num_frames
    assert set(shown) == {(160, 120)}


async def test_a_server_that_restarts_is_a_new_stream_on_the_same_capture(tmp_path: Path) -> None:
    async with running_front() as front:
        port = front.grpc_port
        overlay = LiveOverlay(plan_for(tmp_path, port, num_frames=250, speed=1.0))
        running = asyncio.create_task(asyncio.to_thread(overlay.run))
        async with asyncio.timeout(HANG_S):
            while overlay.report.num_frames < 10:
                await asyncio.sleep(0.05)
        await front.drain()
    before = overlay.report.num_frames
    async with running_front(grpc_port=port):
        report = await asyncio.wait_for(running, HANG_S)
    assert report.num_connections >= 2
    assert report.num_frames > before
    assert len(frames_of(tmp_path / "overlay.mp4")) == report.num_frames


@pytest.mark.parametrize("is_cut", [False, True], ids=["drained", "cut"])
async def test_an_event_that_is_open_when_the_connection_ends_is_told_once(tmp_path: Path, is_cut: bool) -> None:
    """All frames sound. The server says so before it drains; when the line is cut, the client knows."""
    events: list[LiveEvent] = []

    async def answered(num: int) -> None:
        while sum(isinstance(event, LiveMasks) and bool(event.masks.masks) for event in events) < num:
            await asyncio.sleep(0.02)

    async with running_front() as front, asyncio.timeout(HANG_S):
        with FaultProxy(front.grpc_port) as line:
            plan = plan_for(tmp_path, line.port, num_frames=200, speed=1.0, flash_frames=frozenset(range(200)))
            overlay = LiveOverlay(replace(plan, options=LiveOptions(max_waiting_frames=64, event_min_s=0.0)))
            overlay.on_event = events.append
            running = asyncio.create_task(asyncio.to_thread(overlay.run))
            await answered(10)
            if is_cut:
                line.reset_all()
            else:
                await front.drain()
                async with running_front() as fresh:
                    line.point_to(fresh.grpc_port)
                    await running
            await running
    places = [place for place, event in enumerate(events) if isinstance(event, ModelInfo)]
    assert len(places) == overlay.report.num_connections >= 2
    for start, end in itertools.pairwise([*places, len(events)]):
        frames = [event.masks for event in events[start:end] if isinstance(event, LiveMasks)]
        sounds = [event for event in events[start:end] if isinstance(event, SoundEvent)]
        heard_s = [frame.timestamp_s for frame in frames if frame.masks]
        assert [event.end_s for event in sounds][-1:] == [pytest.approx(time_s) for time_s in heard_s[-1:]]
        assert all(earlier.end_s < later.start_s for earlier, later in itertools.pairwise(sounds))


async def test_a_server_that_does_not_come_back_is_given_up_and_the_overlay_is_whole(tmp_path: Path) -> None:
    async with running_front() as front:
        plan = replace(plan_for(tmp_path, front.grpc_port, num_frames=250, speed=1.0), patience_s=1.0)
        overlay = LiveOverlay(plan)
        running = asyncio.create_task(asyncio.to_thread(overlay.run))
        async with asyncio.timeout(HANG_S):
            while overlay.report.num_frames < 5:
                await asyncio.sleep(0.05)
        await front.drain()
    with pytest.raises(ServiceError) as given_up:
        await asyncio.wait_for(running, HANG_S)
    assert given_up.value.spec.is_retryable
    assert len(frames_of(plan.output)) == overlay.report.num_frames >= 5


async def test_what_trying_again_cannot_solve_ends_it(tmp_path: Path) -> None:
    async with running_front() as front:
        plan = plan_for(tmp_path, front.grpc_port, num_frames=25, speed=1.0)
        wrong = LivePlan(plan.capture, plan.url, plan.output, options=LiveOptions(labels=("violin",)))
        with pytest.raises(ServiceError) as refused:
            await asyncio.wait_for(asyncio.to_thread(LiveOverlay(wrong).run), HANG_S)
        missing = LivePlan(CapturePolicy(str(tmp_path / "none.mp4")), plan.url, plan.output)
        with pytest.raises(ServiceError) as unread:
            await asyncio.wait_for(asyncio.to_thread(LiveOverlay(missing).run), HANG_S)
    assert refused.value.code == "bad_option"
    assert unread.value.code == "broken"
