"""A user's own camera and microphone, or their own file played in real time, as the inputs of a live stream.

Only clients run this, never the service.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.domain.live import MAX_WAITING_FRAMES, LiveFrame, LiveInput, SoundPiece

_JPEG_QUALITY = 85
# Beginnings of addresses of network streams.
_NETWORK = ("rtsp://", "rtsps://", "rtmp://", "srt://", "udp://", "http://", "https://")
# Seconds to open a network stream, to wait for its next packet, between two tries, and of tries without a frame.
_OPEN_S, _READ_S, _REOPEN_S, _SOURCE_PATIENCE_S = 10.0, 10.0, 1.0, 60.0
# Inputs that may wait for the connection. Older ones are dropped, as in a live stream.
_WAITING_INPUTS = 100
# Pictures that may wait for their masks: those here, those in the server's queue, and some in transit.
_KEPT_PICTURES = _WAITING_INPUTS + MAX_WAITING_FRAMES + 8


@dataclass(frozen=True, slots=True)
class CapturePolicy:
    """What to capture.

    Attributes:
        source: a file, a camera such as `/dev/video0`, or a network stream such as `rtsp://host/path`.
        camera_format: FFmpeg input format of the camera (`v4l2`), None for a file.
        microphone: FFmpeg's name of the microphone (`default`), None if the source has the sound.
        microphone_format: its FFmpeg input format.
        max_side_px: pictures are scaled down to this before they are sent.
        speed: of a file's playback; 1 is real time.
    """

    source: str
    camera_format: str | None = None
    microphone: str | None = None
    microphone_format: str = "alsa"
    max_side_px: int = 640
    speed: float = 1.0

    @property
    def is_network(self) -> bool:
        """Whether the source is a network stream, which is opened again when it breaks."""
        return self.source.startswith(_NETWORK)


class Capture:
    """Captures in threads of its own, also while no connection is open."""

    def __init__(self, policy: CapturePolicy) -> None:
        self._policy = policy
        self._inputs: queue.Queue[LiveInput] = queue.Queue(_WAITING_INPUTS)
        self._pictures: OrderedDict[float, NDArray[np.uint8]] = OrderedDict()
        self._stopping = threading.Event()
        self._started_s = time.monotonic()
        self._error: ServiceError | None = None
        self._num_taken = 0
        self._lock = threading.Lock()
        sources = [(policy.source, policy.camera_format)]
        if policy.camera_format is not None and policy.microphone is not None:
            sources.append((policy.microphone, policy.microphone_format))
        self._threads = [threading.Thread(target=self._run, args=source, daemon=True) for source in sources]

    def __enter__(self) -> Capture:
        self._started_s = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=5)

    @property
    def is_over(self) -> bool:
        """Return whether no more inputs will come."""
        return self._inputs.empty() and not any(thread.is_alive() for thread in self._threads)

    def check(self) -> None:
        """Raise the error that ended the capture early (ServiceError `broken`)."""
        if self._error is not None:
            raise self._error

    def inputs(self, is_connected: threading.Event) -> Iterator[LiveInput]:
        """Yield the inputs for one connection, until it or the source ends."""
        while is_connected.is_set() and not self._stopping.is_set() and not self.is_over:
            with suppress(queue.Empty):
                yield self._inputs.get(timeout=0.1)

    def picture(self, timestamp_s: float) -> NDArray[np.uint8] | None:
        """Return the picture of a sent frame, uint8 RGB (H, W, 3). Each can be taken once."""
        with self._lock:
            key = next((key for key in self._pictures if abs(key - timestamp_s) < 1e-5), None)
            return None if key is None else self._pictures.pop(key)

    def _run(self, source: str, source_format: str | None) -> None:
        last_s = time.monotonic()
        while True:
            num_before = self._num_taken
            try:
                self._read(source, source_format)
                is_broken = False
            except (av.FFmpegError, OSError):
                is_broken = True
            if self._num_taken > num_before:
                last_s = time.monotonic()
            is_given_up = time.monotonic() - last_s > _SOURCE_PATIENCE_S
            if self._stopping.is_set() or not self._policy.is_network or is_given_up:
                break
            self._stopping.wait(_REOPEN_S)
        if is_broken and not self._stopping.is_set():
            self._error = ServiceError("broken", f"{source!r} cannot be captured; is it there, and is it readable?")

    def _read(self, source: str, source_format: str | None) -> None:
        is_network = self._policy.is_network
        options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
        timeout = (_OPEN_S, _READ_S) if is_network else None
        with av.open(source, format=source_format, options=options, timeout=timeout) as container:
            streams = [stream for stream in (*container.streams.video[:1], *container.streams.audio[:1])]
            resampler = AudioResampler(format="s16", layout="mono")
            for frame in container.decode(streams):
                if self._stopping.is_set():
                    return
                self._num_taken += 1
                self._take(frame, resampler, is_live=source_format is not None or is_network)

    def _take(self, frame: object, resampler: AudioResampler, *, is_live: bool) -> None:
        at_s = self._time_of(frame, is_live=is_live)
        if isinstance(frame, VideoFrame):
            self._put(self._encoded(frame, at_s))
        elif isinstance(frame, AudioFrame):
            for mono in resampler.resample(frame):
                self._put(SoundPiece(at_s, mono.to_ndarray()[0].astype("<i2").tobytes(), mono.sample_rate))

    def _time_of(self, frame: object, *, is_live: bool) -> float:
        """Return seconds since the start: by the wall clock for devices, which start apart; else the file's."""
        assert isinstance(frame, VideoFrame | AudioFrame)
        now_s = time.monotonic() - self._started_s
        if is_live:
            return now_s - (frame.samples / frame.sample_rate if isinstance(frame, AudioFrame) else 0.0)
        at_s = float(frame.time or 0.0)
        self._stopping.wait(max(0.0, at_s / self._policy.speed - now_s))
        return at_s

    def _encoded(self, frame: VideoFrame, at_s: float) -> LiveFrame:
        scale = min(1.0, self._policy.max_side_px / max(frame.width, frame.height))
        height, width = (max(2, round(side * scale / 2) * 2) for side in (frame.height, frame.width))
        picture = frame.reformat(width=width, height=height, format="rgb24").to_ndarray().astype(np.uint8, copy=False)
        with self._lock:
            self._pictures[at_s] = picture
            while len(self._pictures) > _KEPT_PICTURES:
                self._pictures.popitem(last=False)
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
        return LiveFrame(at_s, data.tobytes(), "jpeg", width, height)

    def _put(self, item: LiveInput) -> None:
        while not self._stopping.is_set():
            try:
                self._inputs.put_nowait(item)
                return
            except queue.Full:
                with suppress(queue.Empty):
                    self._inputs.get_nowait()
