"""Live overlay: what a camera sees, or a file played in real time, with the sounding pixels marked.

    python -m service.client.video.live_example clip.mp4 --url grpc://127.0.0.1:50051 --output overlay.mp4
    python -m service.client.video.live_example /dev/video0 --camera v4l2 --microphone default --seconds 30

Ctrl-C ends it. Shows how a client of SegmentLive is built: inputs come from threads, answers find their pictures by
timestamp, and a lost connection or a draining server is a new stream on the same capture. Beside the client it needs
av and opencv, which `pip install '.[front]'` brings.
"""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from service.client.connect import open_client
from service.client.grpc_client import GrpcClient
from service.client.policy import ClientPolicy
from service.client.video.last_events import LastEvents
from service.client.video.live_capture import Capture, CapturePolicy
from service.client.video.live_overlay import LiveOverlayWriter
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveFrameError, LiveMasks, LiveOptions
from service.domain.result import ModelInfo

logger = logging.getLogger("live_example")
# The capture continues while the server is away. A connection is tried every few seconds until `patience_s` is over.
RECONNECTING = ClientPolicy(attempts=10_000, max_backoff_s=5.0)


@dataclass(frozen=True, slots=True)
class LivePlan:
    """What to do: source, target and duration. Ends after `patience_s` without any answer.

    The overlay is written to `output`, a file or an open pipe; without it none is drawn. `LiveOverlay.on_event` is
    called with every event.
    """

    capture: CapturePolicy
    url: str
    output: Path | BinaryIO | None
    seconds: float = float("inf")
    options: LiveOptions = field(default_factory=LiveOptions)
    client: ClientPolicy = field(default_factory=lambda: RECONNECTING)
    patience_s: float = 120.0


@dataclass(slots=True)
class LiveReport:
    """Counts of a finished run."""

    num_frames: int = 0
    num_errors: int = 0
    num_dropped: int = 0
    num_connections: int = 0
    latencies_s: list[float] = field(default_factory=list)


class LiveOverlay:
    """One capture over as many streams as necessary."""

    def __init__(self, plan: LivePlan) -> None:
        self._plan = plan
        self._writer: LiveOverlayWriter | None = None
        self._ends_at_s = time.monotonic() + plan.seconds
        self._answered_at_s = time.monotonic()
        self._attempt = 0
        self.report = LiveReport()
        self.on_event: Callable[[LiveEvent], None] | None = None

    def run(self) -> LiveReport:
        """Capture, segment and draw until the source or the time ends. Raises ServiceError if a retry cannot help."""
        with ExitStack() as stack:
            capture = stack.enter_context(Capture(self._plan.capture))
            while not capture.is_over and time.monotonic() < self._ends_at_s:
                self._attempt += 1
                try:
                    self._stream(capture, stack)
                except ServiceError as error:
                    time.sleep(self._delay_s(error))
            capture.check()
        return self.report

    def _delay_s(self, error: ServiceError) -> float:
        """Return the seconds until the next connection; raises the error if there shall be none."""
        delay_s = self._plan.client.retry_delay_s(error, attempt=max(1, self._attempt))
        now_s = time.monotonic()
        if delay_s is None or now_s + delay_s > self._answered_at_s + self._plan.patience_s:
            raise error
        logger.warning("%s Connecting again in %.1f s.", error.detail, delay_s)
        return max(0.0, min(delay_s, self._ends_at_s - now_s))

    def _stream(self, capture: Capture, stack: ExitStack) -> None:
        """Run one connection until the source, the time or the connection ends."""
        is_connected = threading.Event()
        is_connected.set()
        client = open_client(self._plan.url, self._plan.client)
        if not isinstance(client, GrpcClient):
            raise ServiceError("bad_option", "Live streams need a grpc:// or grpcs:// address.")
        dropped_before = self.report.num_dropped
        last_events = LastEvents(self._plan.options)
        with client:
            try:
                for event in client.live(capture.inputs(is_connected), self._plan.options):
                    last_events.take(event)
                    self._take(event, capture, stack, dropped_before)
                    if time.monotonic() > self._ends_at_s:
                        return
            finally:
                is_connected.clear()
                if self.on_event is not None:
                    for untold in last_events.untold():
                        self.on_event(untold)

    def _take(self, event: LiveEvent, capture: Capture, stack: ExitStack, dropped_before: int) -> None:
        if self.on_event is not None:
            self.on_event(event)
        if isinstance(event, ModelInfo):
            self.report.num_connections += 1
            if self._writer is None and self._plan.output is not None:
                self._writer = stack.enter_context(LiveOverlayWriter(self._plan.output, labels=event.labels))
        elif isinstance(event, LiveFrameError):
            self.report.num_errors += 1
            logger.warning("frame at %.3f s: %s", event.timestamp_s, event.detail)
        elif isinstance(event, LiveMasks):
            self._attempt, self._answered_at_s = 0, time.monotonic()
            self.report.num_frames += 1
            self.report.num_dropped = dropped_before + event.num_dropped_frames
            self.report.latencies_s.append(event.latency_s)
            picture = capture.picture(event.masks.timestamp_s)
            if picture is not None and self._writer is not None:
                self._writer.write(picture, event.masks)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="live_example", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("source", help="a video file, or a camera such as /dev/video0")
    parser.add_argument("--url", default="grpc://127.0.0.1:50051")
    parser.add_argument("--output", type=Path, default=Path("overlay.mp4"))
    parser.add_argument("--camera", metavar="FORMAT", help="the source is a camera of this FFmpeg format, such as v4l2")
    parser.add_argument("--microphone", metavar="NAME", help="record this microphone with the camera, such as default")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--api-key")
    arguments = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    capture = CapturePolicy(arguments.source, camera_format=arguments.camera, microphone=arguments.microphone)
    client = replace(RECONNECTING, api_key=arguments.api_key)
    overlay = LiveOverlay(LivePlan(capture, arguments.url, arguments.output, arguments.seconds, client=client))
    failure = None
    try:
        overlay.run()
    except ServiceError as error:
        failure = error.detail
    except KeyboardInterrupt:
        logger.info("stopped")
    report = overlay.report
    middle_s = sorted(report.latencies_s)[len(report.latencies_s) // 2] if report.latencies_s else 0.0
    logger.info(
        "%d frames, %d dropped, %d errors, %d connections, median latency %.3f s: %s",
        *(report.num_frames, report.num_dropped, report.num_errors, report.num_connections, middle_s, arguments.output),
    )
    if failure is not None:
        logger.error("%s", failure)
    return 0 if failure is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
