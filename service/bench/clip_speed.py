"""Decoding against the ffmpeg program, and mask encoding against pycocotools."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from service.bench.figures import BenchPlan, Figures, OnStep, call_s, cpu_s
from service.domain.chunk import SAMPLE_RATE_HZ
from service.media.masks import encode_pixels
from service.media.policy import DecodeJob, MediaPolicy
from service.media.sandbox.child import scan
from service.media.sandbox.decoding.clip_decode import samples_of
from service.media.sandbox.source import UploadSource

# Frame size in AVSBench.
_SIDE_PX = 224
_REPEATS = 3
_LIMITS = MediaPolicy(max_clip_s=math.inf, max_pixels=8192 * 8192, max_samples=1_000_000)


def measure_decoding(plan: BenchPlan, on_step: OnStep) -> Figures:
    """Return the CPU time of our decoding over that of the ffmpeg program for the same work.

    The work: one frame per second at 224 px, and the sound as 16 kHz mono. Without an ffmpeg program only our own
    seconds are returned.
    """
    figures: Figures = {}
    program = shutil.which("ffmpeg")
    for name, path in plan.clips.items():
        on_step(f"decode {name}")
        ours_s = cpu_s(lambda path=path: decode_in_process(path), num_calls=_REPEATS)  # type: ignore[misc]
        figures[f"decode.{name}.cpu_s"] = ours_s
        if program is not None:
            theirs_s = cpu_s(lambda path=path: _run_ffmpeg(program, path), num_calls=_REPEATS)  # type: ignore[misc]
            figures[f"decode.{name}.ratio_to_ffmpeg_cpu"] = ours_s / max(theirs_s, 1e-9)
    return figures


def measure_run_lengths(plan: BenchPlan, on_step: OnStep) -> Figures:
    """Our encoding (run lengths, area and box) of a 720p mask over pycocotools' bare encoding of the same mask.

    Both get the mask as their caller has it: ours transposed, as it comes from the up-sampling; pycocotools a row-major
    one, which it needs copied to column-major.
    """
    on_step("run lengths")
    inside = _blob(720, 1280)
    transposed = np.ascontiguousarray(inside.T)
    rows = inside.astype(np.uint8)
    ours_s = call_s(lambda: encode_pixels(transposed, label="blob", min_area=0), seconds=plan.seconds / 4)
    theirs_s = call_s(lambda: coco.encode(np.asfortranarray(rows)), seconds=plan.seconds / 4)
    return {"rle.ratio_to_pycocotools": ours_s / theirs_s, "rle.720p_s": ours_s}


def decode_in_process(path: Path) -> int:
    """Decode a clip at one sample per second and 224 px without a child process; return the number of samples."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        source = UploadSource(fd, size_bytes=size, is_complete=True, need=lambda _: (size, True))
        job = DecodeJob(
            fps=1.0,
            start_s=0.0,
            end_s=None,
            frame_height=_SIDE_PX,
            frame_width=_SIDE_PX,
            policy=_LIMITS,
            size_bytes=size,
        )
        _, tracks = scan(job, source)
        return sum(len(block) for block in samples_of(job, source, tracks))
    finally:
        os.close(fd)


def _run_ffmpeg(program: str, path: Path) -> None:
    picture = ["-map", "0:v:0", "-vf", f"fps=1,scale={_SIDE_PX}:{_SIDE_PX}:flags=bilinear"]
    picture += ["-pix_fmt", "rgb24", "-f", "rawvideo", "/dev/null"]
    sound = ["-map", "0:a:0", "-ac", "1", "-ar", str(SAMPLE_RATE_HZ), "-f", "s16le", "/dev/null"]
    command = [program, "-v", "error", "-nostdin", "-y", "-threads", "1", "-i", str(path), *picture, *sound]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _blob(height: int, width: int) -> NDArray[np.bool_]:
    """Return a mask with a smooth outline."""
    noise = np.random.default_rng(0).normal(0, 1, (9, 16)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)) > 0.5
