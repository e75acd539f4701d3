"""R8 streams: clients of streams that send and never read, over the WebSocket `/live` and gRPC, beside normal clients.

Each stalled client must be cut as `slow_reader`, what the service holds for it must be bounded, and others must not
notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
from grpc import aio
from load.abuse import pinned, service
from load.strangers import MIB, target_of
from support.clients.abuse_load import Outcome, Target, clients
from support.clients.raw_websocket import BINARY, TEXT, client_frame, switched
from support.inputs.clips import make_clip
from support.inputs.live_inputs import dotted_picture, jpeg_of, noise
from support.proof import Found, Run, found
from support.servers.service_process import ServiceProcess

from service.codec import live_json
from service.codec.protobuf import encode_live_input
from service.domain.live import LiveFrame, LiveInput
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

_NUM_STREAMS = 24
# Squares of one cell of the fake predictor (4 of 64 pixels), so that each mask takes kilobytes and a few frames fill
# every buffer.
_SIDE_PX, _DOT_PX = 512, 32
_NUM_FRAMES = 100
_FRAME_EVERY_S = 0.5
# Readers are cut after 30 s without reading; with the time to fill the buffers.
_MOST_CUT_S = 75.0
_PIECE_BYTES = 64 * 1024
# A connection of its own for each, whose window stays at 64 KiB (with probes it grows to megabytes).
_CHANNEL = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
# Most memory that a stalled stream may hold, its decoder of pictures (about 5 MiB) included.
_MOST_MIB = 8

Stall = Callable[[ServiceProcess], Awaitable[None]]


@functools.cache
def _picture() -> bytes:
    return jpeg_of(dotted_picture(_SIDE_PX, _DOT_PX))


@functools.cache
def _clip() -> bytes:
    return make_clip(
        num_frames=_NUM_FRAMES,
        width=_SIDE_PX,
        height=_SIDE_PX,
        flash_frames=frozenset(range(_NUM_FRAMES)),
        dot_px=_DOT_PX,
        sound="aac",
    )


def _inputs(number: int) -> list[LiveInput]:
    at_s = number * _FRAME_EVERY_S
    picture = LiveFrame(at_s + _FRAME_EVERY_S, _picture(), "jpeg", 0, 0)
    return [noise(at_s, _FRAME_EVERY_S, rate_hz=16_000), picture]


async def stalled_websocket(running: ServiceProcess) -> None:
    """Send pictures and sound to `/live` and read nothing, until the service ends the connection."""
    async with switched(_port(running)) as (_, writer):
        writer.write(client_frame(TEXT, json.dumps({"type": "options", "max_audio_wait_s": 0}).encode()))
        with contextlib.suppress(OSError):
            for number in range(round(_MOST_CUT_S / _FRAME_EVERY_S)):
                for item in _inputs(number):
                    writer.write(client_frame(BINARY, live_json.encode_live_input(item)))
                await writer.drain()
                await asyncio.sleep(_FRAME_EVERY_S)


async def stalled_live_call(running: ServiceProcess) -> None:
    """Send pictures and sound to SegmentLive and read nothing, until the service ends the call."""

    async def camera() -> AsyncIterator[pb.LiveRequest]:
        yield pb.LiveRequest(options=pb.LiveOptions(max_audio_wait_s=0))
        for number in range(round(_MOST_CUT_S / _FRAME_EVERY_S)):
            for item in _inputs(number):
                yield encode_live_input(item)
            await asyncio.sleep(_FRAME_EVERY_S)

    async with aio.insecure_channel(running.grpc_target, _CHANNEL) as channel:
        call = SegmentationStub(channel).SegmentLive(camera())
        await call.read()
        await asyncio.sleep(_MOST_CUT_S)


async def stalled_upload_call(running: ServiceProcess) -> None:
    """Upload a clip with a long answer to Segment and read its first message only."""
    clip = _clip()

    async def upload() -> AsyncIterator[pb.SegmentRequest]:
        yield pb.SegmentRequest(options=pb.SegmentOptions(native_fps=True))
        for at in range(0, len(clip), _PIECE_BYTES):
            yield pb.SegmentRequest(chunk=clip[at : at + _PIECE_BYTES])

    async with aio.insecure_channel(running.grpc_target, _CHANNEL) as channel:
        call = SegmentationStub(channel).Segment(upload())
        await call.read()
        await asyncio.sleep(_MOST_CUT_S)


SORTS: dict[str, Stall] = {
    "websocket": stalled_websocket,
    "grpc live": stalled_live_call,
    "grpc upload": stalled_upload_call,
}


async def run(run: Run) -> Found:
    """Normal clients alone, and beside stalled streams of each sort."""
    num = min(_NUM_STREAMS, run.sizes.slow)
    figures: dict[str, object] = {"stalled_streams": num}
    uncut: dict[str, int] = {}
    refused: dict[str, int] = {}
    bars: dict[str, bool] = {}
    with service(cache_bytes=2**28, max_batch=64, fake_batch_s=0.05, decode_processes=4) as running, pinned(running):
        target = target_of(running, make_clip(num_frames=25, sound="aac"))
        for sort, stall in SORTS.items():
            row = await _beside(run, running, target, stall, num=num)
            figures[sort] = row
            bars[f"p50 beside {sort} <= 1.3 times"] = float(row["p50_ratio"]) <= 1.3
            bars[f"{sort}: at most {_MOST_MIB} MiB a stream"] = float(row["rise_mib"]) <= _MOST_MIB * num
            uncut |= {sort: num - int(row["cut"])} if row["cut"] < num else {}
            refused |= {sort: int(row["refused"])} if row["refused"] else {}
    return found(figures, never={"streams were not cut": uncut, "normal clients were refused": refused}, bars=bars)


async def _beside(run: Run, running: ServiceProcess, target: Target, stall: Stall, *, num: int) -> dict[str, float]:
    """Figures of one sort; alone is measured before and after."""
    alone, beside = Outcome(), Outcome()
    await clients(target, alone, num=2, seconds=run.sizes.seconds / 2)
    num_cut, held_bytes = _num_cut(running), held_bytes_of(running)
    since_s = time.perf_counter()
    async with _stalling(running, stall, num=num):
        await asyncio.sleep(run.sizes.seconds)  # until their buffers are full
        await clients(target, beside, num=2, seconds=run.sizes.seconds)
        rise_bytes = held_bytes_of(running) - held_bytes
        while _num_cut(running) - num_cut < num and time.perf_counter() - since_s < _MOST_CUT_S:
            await asyncio.sleep(0.5)
        cut_after_s = time.perf_counter() - since_s
    await clients(target, alone, num=2, seconds=run.sizes.seconds / 2)
    return {
        "cut": _num_cut(running) - num_cut,
        "cut_after_s": round(cut_after_s, 1),
        "rise_mib": round(rise_bytes / MIB, 1),
        "p50_ratio": round(beside.quantile_s(200, 0.5) / alone.quantile_s(200, 0.5), 3),
        "refused": sum(number for status, number in beside.statuses().items() if status != "200"),
    }


@asynccontextmanager
async def _stalling(running: ServiceProcess, stall: Stall, *, num: int) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(stall(running)) for _ in range(num)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def held_bytes_of(running: ServiceProcess) -> int:
    """Memory that the service and its children hold, without what children share with the zygote."""
    num_bytes = 0
    for process in running.living():
        with contextlib.suppress(psutil.Error):
            num_bytes += process.memory_full_info().uss
    return num_bytes


def _num_cut(running: ServiceProcess) -> int:
    return round(running.metric("requests_total", code="slow_reader"))


def _port(running: ServiceProcess) -> int:
    return int(running.url.rpartition(":")[2])
