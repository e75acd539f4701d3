"""Values survive the way over either wire: what the server writes is what the client reads."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import grpc_messages, rest_messages
from service.domain.clip import ClipInfo
from service.domain.errors import CODES, ServiceError
from service.domain.live import LiveFrame, LiveFrameError, LiveMasks, LiveOptions, SoundPiece
from service.domain.options import AppliedOptions, SegmentOptions, parse_options
from service.domain.request import ClipStarted
from service.domain.result import SOUNDING, FrameMasks, Mask, ModelInfo, Rle, Summary
from service.rpc import convert
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

MODEL = ModelInfo("tiny", "sha256:ab", ("dog", "drum"), 1, 224, 224)
seconds = st.floats(0, 1e5).map(lambda value: round(value, 6))
counts = st.integers(0, 2**31 - 1)


@st.composite
def options(draw: st.DrawFn) -> SegmentOptions:
    native = draw(st.booleans())
    start_s = draw(st.floats(0, 1e4))
    labels = draw(st.lists(st.sampled_from(MODEL.labels), max_size=2, unique=True))
    return SegmentOptions(
        fps=1.0 if native else draw(st.floats(0.001, 60)),
        native_fps=native,
        start_s=start_s,
        end_s=draw(st.none() | st.floats(start_s, 2e4, exclude_min=True)),
        threshold=draw(st.none() | st.floats(0, 1)),
        size=draw(st.sampled_from(["source", "model"])),
        labels=tuple(labels) or None,
        min_area=draw(counts),
    )


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    return Mask(
        label=draw(st.sampled_from(MODEL.labels)),
        score=draw(st.floats(0, 1, width=32)),
        area=draw(st.integers(1, 2**40)),
        bbox=tuple(draw(st.tuples(counts, counts, counts, counts))),
        segmentation=Rle(draw(st.tuples(counts, counts)), draw(st.text("".join(map(chr, range(48, 112)))))),
    )


frames = st.builds(FrameMasks, seconds, seconds, st.integers(0, 2**40), st.lists(masks(), max_size=3).map(tuple))


@given(options())
def test_options_over_rest(asked: SegmentOptions) -> None:
    assert parse_options(rest_messages.option_fields(asked)) == asked


@given(options())
def test_options_over_grpc(asked: SegmentOptions) -> None:
    first = next(grpc_messages.segment_requests(b"", asked))
    assert convert.segment_options(pb.SegmentOptions.FromString(first.options.SerializeToString())) == asked


@given(frames)
def test_frames_over_grpc(frame: FrameMasks) -> None:
    assert grpc_messages.answer_event(convert.segment_response(frame), options=SegmentOptions()) == frame


@given(st.none() | seconds, st.none() | seconds, st.none() | counts, st.none() | st.integers(1, 9))
def test_clips_over_grpc(
    duration_s: float | None, frame_rate: float | None, num_samples: int | None, world: int | None
) -> None:
    model = ModelInfo("tiny", "sha256:ab", (SOUNDING,), world, 224, 320)
    clip = ClipInfo(640, 480, "4:3", duration_s, frame_rate, num_samples)
    asked = SegmentOptions(fps=2.5, end_s=4, size="model")
    started = ClipStarted("id", model, clip, asked.resolve(model))
    assert grpc_messages.answer_event(convert.segment_response(started), options=asked) == started


@given(st.dictionaries(st.sampled_from(["upload", "total"]), seconds), st.booleans())
def test_summaries_over_grpc(timings_s: dict[str, float], cached: bool) -> None:
    summary = Summary(7, timings_s, cached)
    assert grpc_messages.answer_event(convert.segment_response(summary), options=SegmentOptions()) == summary


def test_messages_of_a_newer_server_are_passed_over() -> None:
    assert grpc_messages.answer_event(pb.SegmentResponse(), options=SegmentOptions()) is None
    assert grpc_messages.live_event(pb.LiveResponse()) is None
    assert rest_messages.line_event('{"type": "heartbeat"}') is None


@pytest.mark.parametrize(
    "item",
    [
        LiveFrame(1.5, b"abc", "jpeg", 0, 0),
        LiveFrame(1.5, bytes(24), "rgb24", 4, 2),
        SoundPiece(0.25, b"\1\0\2\0", 48_000),
    ],
)
def test_live_inputs_over_grpc(item: LiveFrame | SoundPiece) -> None:
    assert convert.live_input(grpc_messages.live_request(item)) == item


@pytest.mark.parametrize(
    "event",
    [
        MODEL,
        LiveMasks(FrameMasks(1.0, 1.0, 3, (Mask("dog", 0.5, 4, (0, 1, 2, 2), Rle((4, 5), "abc")),)), 0.125, 7),
        LiveFrameError(1.0, "broken", "The JPEG is damaged."),
    ],
)
def test_live_events_over_grpc(event: ModelInfo | LiveMasks | LiveFrameError) -> None:
    assert grpc_messages.live_event(convert.live_response(event)) == event


@pytest.mark.parametrize(
    "asked",
    [
        LiveOptions(),
        LiveOptions(threshold=0.0, size="model", labels=("dog",), max_audio_wait_s=0, max_waiting_frames=1),
    ],
)
def test_live_options_over_grpc(asked: LiveOptions) -> None:
    assert convert.live_options(grpc_messages.live_options(asked).options) == asked
    assert convert.live_options(pb.LiveOptions()) == LiveOptions()


@pytest.mark.parametrize(
    "bad",
    [
        pb.SegmentOptions(native_fps=True, fps=2),
        pb.SegmentOptions(fps=0),
        pb.SegmentOptions(fps=math.nan),
        pb.SegmentOptions(size=17),
        pb.SegmentOptions(threshold=-1),
        pb.SegmentOptions(start_s=2, end_s=1),
        pb.SegmentOptions(min_area=-1),
    ],
)
def test_bad_options_over_grpc(bad: pb.SegmentOptions) -> None:
    with pytest.raises(ServiceError) as refused:
        convert.segment_options(bad)
    assert refused.value.code == "bad_option"


def test_a_frame_over_the_message_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ServiceError, match="JPEG"):
        grpc_messages.live_request(LiveFrame(0.0, bytes(4 * 1024**2), "rgb24", 1, 1))


def test_an_ndjson_answer_is_read() -> None:
    head = (
        '{"type": "clip", "request_id": "id", "model": {"variant": "tiny", "checkpoint": "sha256:ab",'
        ' "labels": ["sounding"], "world_version": null}, "clip": {"width": 4, "height": 2,'
        ' "sample_aspect_ratio": "1:1", "duration_s": null, "frame_rate": 25.0, "num_samples": null},'
        ' "options": {"fps": "native", "start_s": 0.0, "end_s": null, "threshold": 0.5, "size": "source",'
        ' "labels": ["sounding"], "min_area": 0}}'
    )
    started = rest_messages.line_event(head)
    assert isinstance(started, ClipStarted)
    assert started.options == AppliedOptions(None, 0.0, None, 0.5, "source", (SOUNDING,), 0)
    assert started.clip == ClipInfo(4, 2, "1:1", None, 25.0, None)
    frame = rest_messages.line_event(
        '{"type": "frame", "sample_time_s": 0.9, "timestamp_s": 0.8, "index": 3, "masks": [{"label": "sounding",'
        ' "score": 0.5, "area": 2, "bbox": [1, 0, 2, 1], "segmentation": {"size": [2, 4], "counts": "21"}}]}'
    )
    assert frame == FrameMasks(0.9, 0.8, 3, (Mask("sounding", 0.5, 2, (1, 0, 2, 1), Rle((2, 4), "21")),))
    assert rest_messages.line_event('{"type": "end", "num_samples": 1, "timings_s": {"total": 1}}') == Summary(
        1, {"total": 1}
    )
    with pytest.raises(ServiceError) as failed:
        rest_messages.line_event('{"type": "error", "problem": {"code": "broken", "detail": "d", "status": 422}}')
    assert (failed.value.code, failed.value.detail) == ("broken", "d")


@pytest.mark.parametrize("code", CODES)
def test_every_problem_is_read(code: str) -> None:
    body = f'{{"code": "{code}", "detail": "why", "retry_after_s": 1.5}}'.encode()
    error = rest_messages.response_error(500, body, retry_after=None)
    assert (error.code, error.detail, error.retry_after_s) == (code, "why", 1.5)


def test_what_a_proxy_says_is_read_by_its_status() -> None:
    error = rest_messages.response_error(503, b"<html>", retry_after="7")
    assert (error.code, error.retry_after_s) == ("backend_down", 7)
    assert rest_messages.response_error(418, b"[]", retry_after=None).code == "internal"
    with pytest.raises(ServiceError, match="protocol"):
        rest_messages.line_event("<html>")
