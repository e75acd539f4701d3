"""A real decoder pool and uploads for tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from support.components.decoding import SIDE_PX, Decoded, collect

from service.domain.clip import ClipInfo
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.options import AppliedOptions
from service.media.core_use import CoreUse
from service.media.decoders.pool import ClipReader, DecodeRequest, DecoderPool, MediaPolicy
from service.media.spool import Spool
from service.media.upload import Upload
from service.telemetry.metrics import Metrics

HANG_S = 60.0


def make_request(
    *,
    fps: float | None = 1.0,
    start_s: float = 0.0,
    end_s: float | None = None,
    side_px: int = SIDE_PX,
    audio_track: int | None = None,
) -> DecodeRequest:
    """A request with the service's defaults."""
    options = AppliedOptions(
        "native" if fps is None else fps, start_s, end_s, 0.5, "source", ("sounding",), 0, audio_track
    )
    return DecodeRequest(options, side_px, side_px)


@asynccontextmanager
async def running_pool(
    *,
    num_decoders: int = 2,
    max_live_streams: int = 32,
    policy: MediaPolicy | None = None,
    metrics: Metrics | None = None,
    cores: CoreUse | None = None,
) -> AsyncIterator[DecoderPool]:
    """A warm pool."""
    pool = DecoderPool(
        policy or MediaPolicy(),
        num_decoders=num_decoders,
        max_live_streams=max_live_streams,
        clock=time.monotonic,
        metrics=metrics or Metrics(),
        cores=cores,
    )
    await pool.start()
    try:
        yield pool
    finally:
        await pool.aclose()


@asynccontextmanager
async def uploaded(data: bytes, directory: Path, *, is_complete: bool = True) -> AsyncIterator[Upload]:
    """The bytes as an upload."""
    upload = await Spool(directory, max_bytes=1 << 30).open_upload(max_bytes=1 << 29)
    await upload.write(data)
    if is_complete:
        upload.finish()
    try:
        yield upload
    finally:
        upload.close()


def soon() -> Deadline:
    """A deadline that only a hang meets."""
    return Deadline.after(HANG_S, clock=time.monotonic)


async def read_all(reader: ClipReader) -> Decoded:
    """Everything a reader gives."""
    blocks = [block async for block in reader.blocks()]
    return collect(blocks, reader.clip)


async def decode_through(pool: DecoderPool, upload: Upload, request: DecodeRequest | None = None) -> Decoded:
    """One upload through the pool."""
    async with pool.open(upload, request or make_request(), deadline=soon()) as reader:
        return await read_all(reader)


async def code_of(pool: DecoderPool, data: bytes, directory: Path, request: DecodeRequest | None = None) -> str:
    """`ok`, or the code that these bytes are refused with."""
    async with uploaded(data, directory) as upload:
        try:
            await decode_through(pool, upload, request)
        except ServiceError as error:
            return error.code
    return "ok"


def known(clip: ClipInfo) -> bool:
    """Whether a clip is wholly described."""
    return None not in (clip.duration_s, clip.frame_rate, clip.num_samples)


async def gone(pool: DecoderPool) -> None:
    """Wait until no child is left."""
    async with asyncio.timeout(HANG_S):
        while pool.num_children:
            await asyncio.sleep(0.01)


def limits_of(pid: int) -> dict[str, tuple[str, str]]:
    """Soft and hard limits of a process by name; psutil needs more rights for other users' processes."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    pairs = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, value in pairs}


def zygote_of() -> psutil.Process:
    """The zygote of the decoders."""
    (zygote,) = (each for each in psutil.Process().children() if "decoder_zygote" in each.cmdline()[2])
    return zygote
