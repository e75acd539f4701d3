"""Clips generated for benchmarks: a rising tone and a drifting texture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np

from model.data.mp4 import WAVEFORM_RATE_HZ, Mp4Policy, write_mp4

FRAME_RATE = Fraction(25)
# Name, width and height in pixels, most frames of a group of pictures.
ClipKind = tuple[str, int, int, int]
# 250 frames are x264's own default, 30 what phones write.
HD_CLIP = ("made_720p", 1280, 720, 250)
DECODE_CLIPS = (
    ("made_720p_gop30", 1280, 720, 30),
    ("made_1080p_gop30", 1920, 1080, 30),
    ("made_1080p_gop250", 1920, 1080, 250),
)
SMALL_CLIP = ("made_small", 224, 224, 250)
# Side of a square of the texture, and its drift a frame, pixels.
_SQUARE_PX, _DRIFT_PX = 8, 3


def clip_path(folder: Path, kind: ClipKind) -> Path:
    """Return the path to which `make_clip` writes a clip of a kind."""
    return folder / f"{kind[0]}.mp4"


def make_clip(folder: Path, kind: ClipKind, *, seconds: int) -> Path:
    """Write a clip of a kind to `folder`. Its picture costs as much to decode as a camera's."""
    _, width, height, group = kind
    path = clip_path(folder, kind)
    rng = np.random.default_rng(0)
    shape = (height // _SQUARE_PX + 1, width // _SQUARE_PX * 2, 3)
    texture = rng.integers(0, 256, shape).astype(np.uint8)
    wide = texture.repeat(_SQUARE_PX, axis=0)[:height].repeat(_SQUARE_PX, axis=1)
    starts = (_DRIFT_PX * number % width for number in range(int(FRAME_RATE) * seconds))
    frames = (np.ascontiguousarray(wide[:, start:][:, :width]) for start in starts)
    at_s = np.arange(WAVEFORM_RATE_HZ * seconds) / WAVEFORM_RATE_HZ
    tone = (0.3 * np.sin(2 * np.pi * (200 + 20 * at_s) * at_s)).astype(np.float32)
    policy = Mp4Policy(max_group_frames=group)
    write_mp4(path, frames=frames, frame_rate=FRAME_RATE, waveform=tone, policy=policy)
    return path
