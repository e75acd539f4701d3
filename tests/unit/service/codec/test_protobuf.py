"""What a gRPC server encodes is what a client decodes, and the other way round."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import messages, protobuf
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.domain.live import LiveFrame, LiveFrameError, LiveMasks, LiveOptions, SoundPiece
from service.domain.options import SegmentOptions
from service.domain.request import ClipStarted
from service.domain.result import SOUNDING, FrameMasks, Mask, ModelInfo, Rle, Summary
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

MODEL = ModelInfo("tiny", "sha256:ab", ("dog", "drum"), 1, 224, 224)
_FLOAT = struct.Struct("<f")
seconds = st.floats(0, 1e5).map(lambda value: round(value, 6))
counts = st.integers(0, 2**31 - 1)


@st.composite
def options(draw: st.DrawFn) -> SegmentOptions:
    native = draw(st.booleans())
    start_s = draw(st.floats(0, 1e4))
    labels = draw(st.lists(st.sampled_from(MODEL.labels), max_size=2, unique=True))
    return SegmentOptions(
        fps="native" if native else draw(st.floats(0.001, 60)),
        start_s=start_s,
        end_s=draw(st.none() | st.floats(start_s, 2e4, exclude_min=True)),
        threshold=draw(st.none() | st.floats(0, 1)),
        size=draw(st.sampled_from(["source", "model"])),
        labels=tuple(labels) or None,
        min_area=draw(counts),
        audio_track=draw(st.none() | st.integers(0, 255)),
    )


@st.composite
def masks(draw: st.DrawFn) -> Mask:
    return Mask(
        label=draw(st.sampled_from(MODEL.labels)),
        score=draw(st.integers(0, 10**6)) / 10**6,
        area=draw(st.integers(1, 2**40)),
        bbox=tuple(draw(st.tuples(counts, counts, counts, counts))),
        segmentation=Rle(draw(st.tuples(counts, counts)), draw(st.text("".join(map(chr, range(48, 112)))))),
    )


frames = st.builds(FrameMasks, seconds, seconds, st.integers(0, 2**40), st.lists(masks(), max_size=3).map(tuple))


@given(options())
def test_options_over_grpc(asked: SegmentOptions) -> None:
    sent = protobuf.encode_options(asked).SerializeToString()
    assert protobuf.decode_options(pb.SegmentOptions.FromString(sent)) == asked


@given(frames)
def test_frames_over_grpc(frame: FrameMasks) -> None:
    assert protobuf.decode_event(protobuf.encode_event(frame), options=SegmentOptions()) == frame


def test_every_score_over_grpc() -> None:
    """All numbers of six decimals between 0 and 1 come out of a 32-bit field as they went in."""
    for millionths in range(10**6 + 1):
        assert messages._shortest(_FLOAT.unpack(_FLOAT.pack(millionths / 10**6))[0]) == millionths / 10**6


@given(st.none() | seconds, st.none() | seconds, st.none() | counts, st.none() | st.integers(1, 9))
def test_clips_over_grpc(
    duration_s: float | None, frame_rate: float | None, num_samples: int | None, world: int | None
) -> None:
    model = ModelInfo("tiny", "sha256:ab", (SOUNDING,), world, 224, 320)
    clip = ClipInfo(640, 480, "4:3", duration_s, frame_rate, num_samples)
    asked = SegmentOptions(fps=2.5, end_s=4, size="model")
    started = ClipStarted("id", model, clip, asked.resolve(model))
    assert protobuf.decode_event(protobuf.encode_event(started), options=asked) == started


@given(st.dictionaries(st.sampled_from(["upload", "total"]), seconds), st.booleans())
def test_summaries_over_grpc(timings_s: dict[str, float], cached: bool) -> None:
    summary = Summary(7, timings_s, cached)
    assert protobuf.decode_event(protobuf.encode_event(summary), options=SegmentOptions()) == summary


def test_messages_of_a_newer_server_are_ignored() -> None:
    assert protobuf.decode_event(pb.SegmentResponse(), options=SegmentOptions()) is None
    assert protobuf.decode_live_event(pb.LiveResponse()) is None


@pytest.mark.parametrize(
    "item",
    [
        LiveFrame(1.5, b"abc", "jpeg", 0, 0),
        LiveFrame(1.5, bytes(24), "rgb24", 4, 2),
        SoundPiece(0.25, b"\1\0\2\0", 48_000),
    ],
)
def test_live_inputs_over_grpc(item: LiveFrame | SoundPiece) -> None:
    assert protobuf.decode_live_input(protobuf.encode_live_input(item)) == item


@pytest.mark.parametrize(
    "event",
    [
        MODEL,
        LiveMasks(FrameMasks(1.0, 1.0, 3, (Mask("dog", 0.5, 4, (0, 1, 2, 2), Rle((4, 5), "abc")),)), 0.125, 7),
        LiveFrameError(1.0, "broken", "The JPEG is damaged."),
    ],
)
def test_live_events_over_grpc(event: ModelInfo | LiveMasks | LiveFrameError) -> None:
    assert protobuf.decode_live_event(protobuf.encode_live_event(event)) == event


@pytest.mark.parametrize(
    "asked",
    [
        LiveOptions(),
        LiveOptions(threshold=0.0, size="model", labels=("dog",), max_audio_wait_s=0, max_waiting_frames=1),
    ],
)
def test_live_options_over_grpc(asked: LiveOptions) -> None:
    assert protobuf.decode_live_options(protobuf.encode_live_options(asked).options) == asked
    assert protobuf.decode_live_options(pb.LiveOptions()) == LiveOptions()


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
        protobuf.decode_options(bad)
    assert refused.value.code == "bad_option"


def test_a_frame_over_the_message_limit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ServiceError, match="JPEG"):
        protobuf.encode_live_input(LiveFrame(0.0, bytes(4 * 1024**2), "rgb24", 1, 1))


def test_blank_and_all_labels_mean_every_label() -> None:
    assert protobuf.decode_options(pb.SegmentOptions(labels=["all"])).labels is None
    assert protobuf.decode_options(pb.SegmentOptions(labels=[" dog ", ""])).labels == ("dog",)
    assert protobuf.decode_live_options(pb.LiveOptions(labels=["all"])).labels is None


def test_a_live_frame_without_a_format_is_unknown() -> None:
    frame = protobuf.decode_live_input(pb.LiveRequest(frame=pb.LiveFrame(timestamp_s=1, data=b"x")))
    assert frame == LiveFrame(1, b"x", "unknown", 0, 0)
