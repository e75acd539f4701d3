"""Memory stays flat however long the clip is: the server with all its children, measured while it answers."""

from __future__ import annotations

import json
import threading
import time

import psutil
import pytest
from support.inputs.clips import ClipSpec
from support.inputs.long_clip import write_long_clip
from support.servers.service_process import ServiceProcess

MIB = 1024**2


class MemoryLog(threading.Thread):
    """Samples the memory that a process family holds alone (USS), twenty times a second."""

    def __init__(self, service: ServiceProcess) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.rows: list[tuple[float, int]] = []
        self._stop_event = threading.Event()

    def run(self) -> None:
        while not self._stop_event.wait(0.05):
            self.rows.append((time.monotonic(), self.now()))

    def now(self) -> int:
        total = 0
        for process in self.service.family():
            try:
                total += process.memory_full_info().uss
            except psutil.Error:
                continue  # it has just ended
        return total

    def __enter__(self) -> MemoryLog:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_event.set()
        self.join()


def stream_and_measure(path, *, num_frames: int) -> dict[str, float]:
    """Post the clip as lines, read them all; what memory did, in MiB, and when the first frame came."""
    with ServiceProcess() as service, service.client() as client:
        warm = client.post("/segment?fps=1&end_s=1", content=path.read_bytes(), headers={"Content-Type": "video/mp4"})
        assert warm.status_code == 200, warm.text
        log = MemoryLog(service)
        before = log.now()
        headers = {"Content-Type": "video/mp4", "Accept": "application/x-ndjson"}
        num, first_s, last = 0, 0.0, {}
        with log:
            begin_s = time.monotonic()
            with client.stream(
                "POST", "/segment?fps=native&size=model", content=path.read_bytes(), headers=headers
            ) as response:
                for line in response.iter_lines():
                    last = json.loads(line)
                    if last["type"] == "frame":
                        num += 1
                        first_s = first_s or time.monotonic() - begin_s
            end_s = time.monotonic()
        assert last["type"] == "end", last
        assert num == last["num_samples"] == num_frames
        quarter_s = begin_s + (end_s - begin_s) / 4
        early = [held for at_s, held in log.rows if at_s <= quarter_s]
        late = [held for at_s, held in log.rows if at_s > quarter_s]
        return {
            "growth_mib": (max(held for _, held in log.rows) - before) / MIB,
            "growth_after_first_quarter_mib": (max(late) - max(early)) / MIB,
            "first_frame_s": first_s,
            "total_s": end_s - begin_s,
        }


@pytest.mark.e2e
def test_half_a_minute_of_every_frame_is_answered_in_flat_memory(tmp_path):
    path = tmp_path / "half-minute.mp4"
    piece = ClipSpec(width=320, height=240, num_frames=250, b_frames=0, gop=50)
    write_long_clip(path, piece=piece, num_pieces=3)
    figures = stream_and_measure(path, num_frames=750)
    print(json.dumps(figures))  # noqa: T201 - for people who run it with -s (make soak)
    assert figures["growth_mib"] < 400
    assert figures["growth_after_first_quarter_mib"] < 50


@pytest.mark.slow
@pytest.mark.e2e
def test_ten_minutes_of_720p_are_answered_in_flat_memory(tmp_path):
    path = tmp_path / "ten-minutes.mp4"
    piece = ClipSpec(width=1280, height=720, num_frames=125, b_frames=0, gop=125, codec_options={"crf": "40"})
    write_long_clip(path, piece=piece, num_pieces=120)
    figures = stream_and_measure(path, num_frames=15_000)
    print(json.dumps(figures))  # noqa: T201 - for people who run it with -s (make soak)
    assert figures["growth_mib"] < 400
    assert figures["growth_after_first_quarter_mib"] < 50
