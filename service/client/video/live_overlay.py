"""Writes the answered frames of a live stream as video with their masks drawn on them, to a file or to a player."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.domain.result import FrameMasks
from service.media.overlay.paint import OverlayPainter

_TIME_BASE: Final = Fraction(1, 90_000)


class LiveOverlayWriter:
    """H.264 of frames at their own times; the first frame fixes the size.

    Args:
        target: a file becomes an mp4; an open pipe gets Matroska, each frame at once.
        labels: of the model, for stable colours.
    """

    def __init__(self, target: Path | BinaryIO, *, labels: tuple[str, ...]) -> None:
        self._is_pipe = not isinstance(target, Path)
        if isinstance(target, Path):
            self._container = av.open(str(target), "w", format="mp4")
        else:
            options = {"live": "1", "flush_packets": "1", "cluster_time_limit": "0"}
            self._container = av.open(target, "w", format="matroska", options=options)
        self._labels = labels
        self._stream: VideoStream | None = None
        self._painter: OverlayPainter | None = None
        self._first_s = 0.0
        self.num_frames = 0

    def __enter__(self) -> LiveOverlayWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def write(self, picture: NDArray[np.uint8], masks: FrameMasks) -> None:
        """Paint and write one picture, uint8 RGB (H, W, 3), H and W even; times must rise."""
        if self._stream is None or self._painter is None:
            self._begin(picture, masks.timestamp_s)
        assert self._stream is not None
        assert self._painter is not None
        painted = self._painter.paint(picture, masks.masks, time_s=masks.timestamp_s)
        frame = VideoFrame.from_ndarray(painted, format="rgb24")
        frame.pts = round((masks.timestamp_s - self._first_s) / _TIME_BASE)
        frame.time_base = _TIME_BASE
        self._container.mux(self._stream.encode(frame))
        self.num_frames += 1

    def _begin(self, picture: NDArray[np.uint8], first_s: float) -> None:
        height, width = picture.shape[:2]
        options = {"preset": "ultrafast", "crf": "20"} | ({"tune": "zerolatency"} if self._is_pipe else {})
        stream = self._container.add_stream("libx264", rate=30, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        self._stream = stream
        self._first_s = first_s
        silent = np.zeros(0, np.float32)
        self._painter = OverlayPainter(height, width, labels=self._labels, envelope=silent, duration_s=1.0)
