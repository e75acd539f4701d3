"""Live streams on virtual time: order, drops, waiting for sound, errors, draining."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest
from support.virtual_time import run_virtual, virtual_clock

from service.core.live import LiveStreams
from service.core.live_frames import LivePolicy
from service.domain.chunk import WINDOW_SAMPLES, Chunk, SegmentedChunk
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.live import LiveFrame, LiveFrameError, LiveInput, LiveMasks, LiveOptions, SoundPiece
from service.domain.request import RequestContext
from service.domain.result import SOUNDING, FrameMasks, ModelInfo

MODEL = ModelInfo("fake", "sha256:0", (SOUNDING,), None, 8, 12)


class Pictures:
    """Decodes `b"ok"` and refuses all else."""

    async def decode_jpeg(self, data: bytes, *, height: int, width: int) -> tuple[np.ndarray, tuple[int, int]]:
        if data != b"ok":
            raise ServiceError("broken", "The JPEG is damaged.")
        return np.zeros((height, width, 3), np.uint8), (480, 640)

    async def resize_rgb(self, frame: np.ndarray, *, height: int, width: int) -> np.ndarray:
        return np.zeros((height, width, 3), np.uint8)

    @contextmanager
    def open_stills(self) -> Iterator["Pictures"]:
        """One decoder for every stream."""
        yield self


@dataclass
class SlowSegmenter:
    """Answers every chunk with empty masks after `cost_s`, or with the error that was planned for its number.

    It is idle while it works on fewer than `num_at_once` chunks. `costs_s` are those of single chunks, by number.
    """

    cost_s: float = 0.0
    num_at_once: int = 1
    costs_s: dict[int, float] = field(default_factory=dict)
    num_running: int = 0
    most_running: int = 0
    errors: dict[int, ServiceError] = field(default_factory=dict)
    chunks: list[Chunk] = field(default_factory=list)
    num_expected: int = 0
    has_device: bool = True

    def is_healthy(self) -> bool:
        return self.has_device

    async def describe(self) -> ModelInfo:
        return MODEL

    @contextmanager
    def expect(self, request_id: str):
        self.num_expected += 1
        yield
        self.num_expected -= 1

    def is_idle(self) -> bool:
        return self.num_running < self.num_at_once

    async def segment(self, chunk: Chunk) -> SegmentedChunk:
        self.chunks.append(chunk)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await asyncio.sleep(self.costs_s.get(chunk.chunk_no, self.cost_s))
        finally:
            self.num_running -= 1
        if chunk.chunk_no in self.errors:
            raise self.errors[chunk.chunk_no]
        samples = chunk.samples
        frame = FrameMasks(
            float(samples.sample_times_s[0]), float(samples.timestamps_s[0]), int(samples.indexes[0]), ()
        )
        return SegmentedChunk((frame,), 0.0, 0.0, 0.0)


@dataclass
class Stream:
    """One stream under test: a script of (pause, input), and the events that came with the time they came at."""

    script: list[tuple[float, LiveInput]]
    options: LiveOptions = field(default_factory=LiveOptions)
    segmenter: SlowSegmenter = field(default_factory=SlowSegmenter)
    emit_cost_s: float = 0.0
    events: list[object] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    policy: LivePolicy = field(default_factory=lambda: LivePolicy(max_pixels=640 * 480))

    async def inputs(self) -> AsyncIterator[LiveInput]:
        for pause_s, item in self.script:
            await asyncio.sleep(pause_s)
            yield item

    async def emit(self, event: object) -> None:
        await asyncio.sleep(self.emit_cost_s)
        self.events.append(event)
        self.times_s.append(virtual_clock() - self.started_s)

    async def run(self, *, drain_at_s: float | None = None) -> None:
        self.started_s = virtual_clock()
        streams = LiveStreams(segmenter=self.segmenter, decoders=Pictures(), policy=self.policy, clock=virtual_clock)
        context = RequestContext("r", "live", Deadline())
        if drain_at_s is not None:
            asyncio.get_running_loop().call_later(drain_at_s, streams.start_draining)
        await streams.run(self.inputs(), options=self.options, emit=self.emit, context=context)

    @property
    def masks(self) -> list[LiveMasks]:
        return [event for event in self.events if isinstance(event, LiveMasks)]

    @property
    def errors(self) -> list[LiveFrameError]:
        return [event for event in self.events if isinstance(event, LiveFrameError)]


def jpeg(at_s: float, data: bytes = b"ok") -> LiveFrame:
    return LiveFrame(at_s, data, "jpeg", 0, 0)


def rgb(at_s: float, *, height: int = 2, width: int = 4, data: bytes | None = None) -> LiveFrame:
    return LiveFrame(at_s, bytes(3 * height * width) if data is None else data, "rgb24", width, height)


def sound(at_s: float, seconds: float, value: int = 100) -> SoundPiece:
    return SoundPiece(at_s, np.full(round(seconds * 16_000), value, "<i2").tobytes(), 16_000)


def test_model_first_then_every_frame_in_order() -> None:
    stream = Stream([(0, sound(0, 1)), (0, jpeg(0.5)), (0, rgb(0.6)), (0.01, jpeg(1.0))])
    run_virtual(stream.run())
    assert stream.events[0] == MODEL
    assert [m.masks.timestamp_s for m in stream.masks] == [0.5, 0.6, 1.0]
    assert [m.masks.index for m in stream.masks] == [0, 1, 2]
    assert [m.num_dropped_frames for m in stream.masks] == [0, 0, 0]
    assert stream.segmenter.num_expected == 0


def test_masks_have_the_size_of_their_frame_or_of_the_model() -> None:
    frames = [(0.0, jpeg(0.5)), (0.0, rgb(0.6))]
    source = Stream(list(frames))
    run_virtual(source.run())
    assert [chunk.masks.output_size for chunk in source.segmenter.chunks] == [(480, 640), (2, 4)]
    model = Stream(list(frames), options=LiveOptions(size="model"))
    run_virtual(model.run())
    assert [chunk.masks.output_size for chunk in model.segmenter.chunks] == [(8, 12), (8, 12)]


def test_a_frame_waits_for_its_sound_and_goes_as_soon_as_it_is_there() -> None:
    stream = Stream([(0, jpeg(0.5)), (0.03, sound(0, 0.25)), (0.03, sound(0.25, 0.25)), (1, jpeg(9.0))])
    run_virtual(stream.run())
    assert stream.times_s[1] == pytest.approx(0.06, abs=1e-3)
    assert np.count_nonzero(stream.segmenter.chunks[0].samples.audio) == 8000


def test_sound_that_does_not_come_is_silence_after_the_longest_wait() -> None:
    stream = Stream([(0, jpeg(0.5)), (5, sound(0, 0.5)), (0, jpeg(0.6))], options=LiveOptions(max_audio_wait_s=0.2))
    run_virtual(stream.run())
    assert stream.times_s[1] == pytest.approx(0.2, abs=1e-3)
    assert stream.masks[0].latency_s == pytest.approx(0.2, abs=1e-3)
    assert not stream.segmenter.chunks[0].samples.audio.any()


def test_no_wait_where_none_is_asked_and_none_at_the_end_of_the_stream() -> None:
    stream = Stream([(0, jpeg(0.5)), (3, jpeg(0.6))], options=LiveOptions(max_audio_wait_s=0))
    run_virtual(stream.run())
    assert stream.times_s[1] == pytest.approx(0.0, abs=1e-3)
    last = Stream([(0, jpeg(0.5))], options=LiveOptions(max_audio_wait_s=5))
    run_virtual(last.run())
    assert last.times_s[1] == pytest.approx(0.0, abs=1e-3)


def test_waits_of_frames_overlap_so_that_missing_sound_costs_no_throughput() -> None:
    """25 frames a second without sound: each is answered 0.1 s after it came, and none is dropped."""
    script: list[tuple[float, LiveInput]] = [(0.04, jpeg(0.04 * n)) for n in range(50)]
    stream = Stream(script)
    run_virtual(stream.run())
    assert len(stream.masks) == 50
    assert stream.masks[-1].num_dropped_frames == 0
    assert all(m.latency_s == pytest.approx(0.1, abs=2e-3) for m in stream.masks[:-4])


def test_the_oldest_waiting_frames_are_dropped_and_counted() -> None:
    """100 frames a second, 10 answers a second: the line of 2 holds the newest."""
    script: list[tuple[float, LiveInput]] = [(0.01, jpeg(0.01 * n)) for n in range(100)]
    options = LiveOptions(max_audio_wait_s=0, max_waiting_frames=2)
    stream = Stream(script, options=options, segmenter=SlowSegmenter(cost_s=0.1))
    run_virtual(stream.run())
    times_s = [m.masks.timestamp_s for m in stream.masks]
    assert times_s == sorted(times_s)
    assert 10 <= len(times_s) <= 14
    assert stream.masks[-1].num_dropped_frames == 100 - len(times_s)
    assert times_s[-2:] == [0.98, 0.99]
    counts = [m.num_dropped_frames for m in stream.masks]
    assert counts == sorted(counts)


def test_frames_are_worked_on_together_while_the_segmenter_is_idle() -> None:
    """Ten frames a second from a model that takes 0.19 s: two at once keep up, one at a time loses 15 of 40."""
    script: list[tuple[float, LiveInput]] = [(0.1, jpeg(0.1 * n)) for n in range(40)]
    options = LiveOptions(max_audio_wait_s=0)
    for num_at_once, num_answered in ((1, 25), (2, 40), (9, 40)):
        stream = Stream(list(script), options, SlowSegmenter(cost_s=0.19, num_at_once=num_at_once))
        run_virtual(stream.run())
        assert len(stream.masks) == num_answered
        assert stream.segmenter.most_running == min(2, num_at_once)


def test_answers_come_in_order_when_a_later_frame_is_ready_sooner() -> None:
    segmenter = SlowSegmenter(cost_s=0.05, costs_s={0: 0.5}, errors={2: ServiceError("internal", "")}, num_at_once=9)
    script: list[tuple[float, LiveInput]] = [(0.01, jpeg(0.01 * n)) for n in range(1, 8)]
    stream = Stream(script, LiveOptions(max_audio_wait_s=0, max_waiting_frames=7), segmenter)
    run_virtual(stream.run())
    assert [event.timestamp_s for event in stream.errors] == [0.03]
    assert [m.masks.index for m in stream.masks] == [0, 1, 3, 4, 5, 6]
    assert segmenter.most_running == 4, "the fifth frame starts when the first one is answered"
    assert stream.times_s[1] == pytest.approx(0.51, abs=1e-3), "the first one's, after the model"


def test_a_client_that_reads_slowly_loses_frames_not_memory() -> None:
    script: list[tuple[float, LiveInput]] = [(0.01, jpeg(0.01 * n)) for n in range(100)]
    stream = Stream(script, options=LiveOptions(max_audio_wait_s=0, max_waiting_frames=1), emit_cost_s=0.2)
    run_virtual(stream.run())
    assert len(stream.masks) + stream.masks[-1].num_dropped_frames == 100
    assert len(stream.masks) < 10


def test_no_more_frames_start_while_the_client_does_not_read() -> None:
    """Their answers would grow old; the newest frame of the line is younger."""
    script: list[tuple[float, LiveInput]] = [(0.1, jpeg(0.1 * n)) for n in range(30)]
    options = LiveOptions(max_audio_wait_s=0, max_waiting_frames=1)
    stream = Stream(script, options, SlowSegmenter(cost_s=0.01, num_at_once=9), emit_cost_s=0.5)
    run_virtual(stream.run())
    assert len(stream.masks) > 4
    assert max(m.latency_s for m in stream.masks) < 0.2


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (jpeg(0.7, b"junk"), "broken"),
        (jpeg(0.5), "malformed_body"),
        (jpeg(0.4), "malformed_body"),
        (jpeg(float("nan")), "malformed_body"),
        (jpeg(float("inf")), "malformed_body"),
        (LiveFrame(0.7, b"ok", "unknown", 0, 0), "malformed_body"),
        (rgb(0.7, data=b"short"), "malformed_body"),
        (rgb(0.7, height=0), "malformed_body"),
        (rgb(0.7, height=481, width=640), "picture_too_large"),
        (SoundPiece(0.7, b"\0", 16_000), "malformed_body"),
    ],
)
def test_one_bad_frame_gets_an_error_and_the_stream_goes_on(bad: LiveInput, code: str) -> None:
    stream = Stream([(0, sound(0, 1)), (0, jpeg(0.5)), (0.01, bad), (0.01, jpeg(0.8))])
    run_virtual(stream.run())
    assert [error.code for error in stream.errors] == [code]
    assert [m.masks.timestamp_s for m in stream.masks] == [0.5, 0.8]


def test_a_frame_that_the_segmenter_fails_is_its_own_fault() -> None:
    errors = {
        0: ServiceError("internal", "x"),
        1: ServiceError("queue_full", "y"),
        2: ServiceError("backend_down", "z"),
    }
    stream = Stream([(0, jpeg(n)) for n in range(4)], segmenter=SlowSegmenter(errors=errors))
    run_virtual(stream.run())
    assert [error.code for error in stream.errors] == ["internal", "queue_full", "backend_down"]
    assert [m.masks.timestamp_s for m in stream.masks] == [3.0]


def test_a_lost_device_ends_the_stream_with_the_first_frame_that_it_was_to_answer() -> None:
    errors = {0: ServiceError("internal", "x"), 1: ServiceError("backend_down", "The device hangs.")}
    segmenter = SlowSegmenter(errors=errors, has_device=False)
    stream = Stream([(0, jpeg(n)) for n in range(4)], segmenter=segmenter)
    with pytest.raises(ServiceError) as ended:
        run_virtual(stream.run())
    assert ended.value.code == "backend_down"
    assert [error.code for error in stream.errors] == ["internal"]
    assert stream.masks == []


def test_draining_ends_a_stream_after_its_current_frame() -> None:
    script: list[tuple[float, LiveInput]] = [(0.1, jpeg(0.1 * n)) for n in range(1, 100)]
    stream = Stream(script, segmenter=SlowSegmenter(cost_s=0.05), options=LiveOptions(max_audio_wait_s=0))
    with pytest.raises(ServiceError) as ended:
        run_virtual(stream.run(drain_at_s=0.42))
    assert ended.value.code == "draining"
    assert ended.value.retry_after_s is not None
    assert len(stream.masks) == 4
    assert stream.times_s[-1] == pytest.approx(0.45, abs=1e-3)


def test_draining_answers_all_frames_that_were_started() -> None:
    script: list[tuple[float, LiveInput]] = [(0.1, jpeg(0.1 * n)) for n in range(1, 9)]
    stream = Stream(script, LiveOptions(max_audio_wait_s=0), SlowSegmenter(cost_s=0.25, num_at_once=4))
    with pytest.raises(ServiceError, match="shutting down"):
        run_virtual(stream.run(drain_at_s=0.32))
    assert [m.masks.index for m in stream.masks] == [0, 1, 2]


def test_draining_ends_a_stream_that_waits_for_its_client() -> None:
    stream = Stream([(0, jpeg(0.5)), (1000, jpeg(0.6))], options=LiveOptions(max_audio_wait_s=0))
    with pytest.raises(ServiceError, match="draining"):
        run_virtual(stream.run(drain_at_s=3))
    assert len(stream.masks) == 1


def test_a_client_that_sends_nothing_gives_up_its_place() -> None:
    stream = Stream([(0, jpeg(0.5)), (31, jpeg(31.5))])
    with pytest.raises(ServiceError, match="for 30 s") as ended:
        run_virtual(stream.run())
    assert (ended.value.code, ended.value.spec.is_retryable) == ("slow_upload", True)
    assert len(stream.masks) == 1


def test_sound_alone_or_a_slow_camera_keeps_a_stream() -> None:
    script = [(29.0, sound(29.0 * n, 1)) for n in range(1, 4)] + [(29.0, jpeg(29.0 * n)) for n in range(4, 7)]
    stream = Stream(script)
    run_virtual(stream.run())
    assert len(stream.masks) == 3


def test_failures_of_the_transport_end_the_stream_as_they_are() -> None:
    class Broken(Stream):
        async def inputs(self) -> AsyncIterator[LiveInput]:
            yield jpeg(0.5)
            raise ServiceError("malformed_body", "options twice")

    with pytest.raises(ServiceError, match="options twice"):
        run_virtual(Broken([]).run())


def test_a_frame_carries_its_window_and_deadline() -> None:
    stream = Stream([(0, sound(0, 2)), (0, jpeg(1.5))])
    run_virtual(stream.run())
    chunk = stream.segmenter.chunks[0]
    assert chunk.samples.audio.shape == (WINDOW_SAMPLES,)
    assert chunk.samples.audio.all()
    assert chunk.samples.offsets.tolist() == [0]
    assert chunk.samples.frames.shape == (1, 8, 12, 3)
    assert chunk.deadline.at_s == pytest.approx(stream.started_s + 10, abs=1e-3)
    assert chunk.is_interactive


@pytest.mark.parametrize(
    "bad",
    [
        {"max_audio_wait_s": -0.1},
        {"max_audio_wait_s": float("nan")},
        {"max_audio_wait_s": 6},
        {"max_waiting_frames": 0},
        {"max_waiting_frames": 65},
        {"threshold": 1.5},
    ],
)
def test_options_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ServiceError) as refused:
        LiveOptions(**bad)
    assert refused.value.code == "bad_option"
