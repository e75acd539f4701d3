"""The zygote of overlays, and their job. It is apart from the decoders' because it holds OpenCV."""

from __future__ import annotations

from typing import Any, NoReturn

from service.domain.result import FrameMasks, Mask, Rle
from service.media import framing
from service.media.policy import DecodeJob, MediaPolicy
from service.media.sandbox.child import Confinement, Pipe, run_on_upload, scan
from service.media.sandbox.confinement import jail
from service.media.sandbox.container.prescan import Scanner
from service.media.sandbox.overlay_send import send_overlay
from service.media.sandbox.source import UploadSource
from service.media.sandbox.warmup import NoOutbox, quiet_libav, warmup_source
from service.media.sandbox.zygote import Work, run_zygote

# A frame as RGB three times, 4:2:0 four times (x264 without lookahead), and the painter's copies.
_BYTES_PER_PIXEL = 48
# Bytes of Python objects for one byte of packed masks.
_MASK_FACTOR = 3
# Ten times what drawing and encoding take for 1280 x 720 (about 30 million pixels per second).
_CPU_S_PER_PIXEL = 3.3e-7


def _run(_kind: str, fields: dict[str, Any], fds: list[int], confinement: Confinement) -> None:
    run_on_upload(_draw, fields, fds, confinement)


def _draw(job: DecodeJob, pipe: Pipe, upload_fd: int, confinement: Confinement) -> None:
    """Draw masks on a complete upload. The new file is sent as PIECE messages; an empty one ends it."""
    masks = pipe.read_exactly(framing.MASKS_SIZE.unpack(pipe.read_exactly(framing.MASKS_SIZE.size))[0])
    size_bytes = job.size_bytes
    source = UploadSource(upload_fd, size_bytes=size_bytes, is_complete=True, need=lambda _: (size_bytes, True))
    scanner, _ = scan(job, source)
    num_pixels, num_frames = scanner.picture_pixels()
    num_bytes = scanner.decoder_memory_bytes() + _MASK_FACTOR * len(masks) + _BYTES_PER_PIXEL * num_pixels
    if num_bytes > job.policy.granted_bytes:
        pipe.wait_for_memory(num_bytes)
    jail.limit_memory(min(job.policy.memory_bytes, confinement.limit_for(num_bytes)))
    drawing_s = _CPU_S_PER_PIXEL * num_pixels * num_frames
    jail.limit_cpu(min(job.policy.max_cpu_s, scanner.cpu_budget_s() + drawing_s))
    confinement.close()
    send_overlay(source, job.policy, framing.unpack_masks(masks), index=scanner.head(), outbox=pipe)
    pipe.write(framing.pack(framing.PIECE))


def _warm_up() -> None:
    quiet_libav()
    mask = Mask("warm-up", 1.0, 1024, (0, 0, 32, 32), Rle((32, 32), "0PP1"))  # COCO's counts of 1024 ones
    source = warmup_source()
    index = Scanner(source, MediaPolicy()).head()
    send_overlay(source, MediaPolicy(), [FrameMasks(0.0, 0.0, 0, (mask,))], index=index, outbox=NoOutbox())


def main() -> NoReturn:
    """Run the process; its argument is the descriptor of the socket to the service."""
    run_zygote(Work(warm_up=_warm_up, run=_run, num_spares=1, place=1))
