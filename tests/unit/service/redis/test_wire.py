"""Bytes across Redis: what goes in comes out, and nothing else is ever believed."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.components.chunks import make_chunk

from service.domain.chunk import Chunk, ProbabilityMap, SegmentedChunk
from service.domain.deadline import Deadline
from service.domain.errors import CODES, ServiceError
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle
from service.redis.wire import (
    WireError,
    decode_answer,
    decode_chunk,
    decode_model,
    encode_answer,
    encode_chunk,
    encode_model,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(max_size=20)
MASKS = st.builds(
    Mask,
    label=TEXT,
    score=FINITE,
    area=st.integers(0, 2**40),
    bbox=st.tuples(*[st.integers(0, 9000)] * 4),
    segmentation=st.builds(Rle, size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)), counts=TEXT),
)
FRAMES = st.builds(
    FrameMasks,
    sample_time_s=FINITE,
    timestamp_s=FINITE,
    index=st.integers(0, 2**40),
    masks=st.lists(MASKS, max_size=3).map(tuple),
)
ANSWERS = st.builds(
    SegmentedChunk,
    frames=st.lists(FRAMES, max_size=4).map(tuple),
    queue_s=FINITE,
    predict_s=FINITE,
    encode_s=FINITE,
)


def clock() -> float:
    return 100.0


def assert_same(given_chunk: Chunk, read: Chunk) -> None:
    for name in ("request_id", "chunk_no", "masks", "is_interactive", "checkpoint"):
        assert getattr(given_chunk, name) == getattr(read, name)
    for name in ("frames", "audio", "offsets", "sample_times_s", "timestamps_s", "indexes"):
        left, right = getattr(given_chunk.samples, name), getattr(read.samples, name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@given(st.integers(0, 2**32 - 1), st.integers(1, 32), TEXT, st.booleans(), TEXT)
@settings(max_examples=40)
def test_chunks_come_back(seed: int, num: int, request_id: str, is_interactive: bool, checkpoint: str) -> None:
    chunk = make_chunk(
        seed=seed,
        num_samples=num,
        size_px=(8, 12),
        request_id=request_id,
        is_interactive=is_interactive,
        checkpoint=checkpoint,
    )
    assert_same(chunk, decode_chunk(encode_chunk(chunk, clock=clock), clock=clock))


def test_strided_frames_come_back() -> None:
    chunk = make_chunk(num_samples=4)
    turned = chunk.samples.frames[:, ::-1, ::-1]
    strided = Chunk(
        request_id="r",
        chunk_no=1,
        samples=type(chunk.samples)(turned, *(getattr(chunk.samples, n) for n in chunk.samples.__slots__[1:])),
        masks=chunk.masks,
        deadline=Deadline(),
    )
    np.testing.assert_array_equal(decode_chunk(encode_chunk(strided, clock=clock), clock=clock).samples.frames, turned)


def test_deadline_travels_as_what_remains() -> None:
    data = encode_chunk(make_chunk(deadline=Deadline(102.5)), clock=clock)
    assert decode_chunk(data, clock=lambda: 7.0, elapsed_s=1.0).deadline == Deadline(8.5)
    assert decode_chunk(data, clock=lambda: 7.0, elapsed_s=3.0).deadline.has_passed(lambda: 7.0)
    assert decode_chunk(encode_chunk(make_chunk(), clock=clock), clock=clock).deadline == Deadline()


TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def test_the_trace_travels_and_older_senders_and_readers_do_without() -> None:
    data = encode_chunk(make_chunk().under(TRACEPARENT), clock=clock)
    assert decode_chunk(data, clock=clock).traceparent == TRACEPARENT
    assert decode_chunk(with_header(data, {"a_field_of_tomorrow": 1}), clock=clock).traceparent == TRACEPARENT
    assert decode_chunk(with_header(data, {"traceparent": "00-zz"}), clock=clock).traceparent == ""
    for wrong in (7, ["x"], {"a": 1}):
        with pytest.raises(WireError):
            decode_chunk(with_header(data, {"traceparent": wrong}), clock=clock)
    length = struct.unpack_from("<I", data, 6)[0]
    header = json.loads(data[10 : 10 + length])
    del header["traceparent"]
    text = json.dumps(header).encode()
    old = data[:6] + struct.pack("<I", len(text)) + text + data[10 + length :]
    assert decode_chunk(old, clock=clock).traceparent == ""


@given(ANSWERS)
def test_answers_come_back(answer: SegmentedChunk) -> None:
    assert decode_answer(encode_answer(answer)) == answer


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_failure_comes_back(code: str) -> None:
    read = decode_answer(encode_answer(ServiceError(code, "détail", retry_after_s=1.5)))
    assert isinstance(read, ServiceError)
    assert (read.code, read.detail, read.retry_after_s) == (code, "détail", 1.5)


def test_models_come_back() -> None:
    info = ModelInfo("tiny", "sha256:ab", ("sounding",), None, 224, 256)
    assert decode_model(encode_model(info)) == info
    for wrong in (
        b"",
        b"[]",
        b"{}",
        encode_model(info).replace(b"224", b"-1"),
        encode_model(info).replace(b"256", b'"2"'),
    ):
        with pytest.raises(WireError):
            decode_model(wrong)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    for wrong in (data, b"AVES\x01\x01" + data, b"AVES\x01\x02" + data, b"AVES\x01\x03" + data):
        with pytest.raises(WireError):
            decode_chunk(wrong, clock=clock)
        with pytest.raises(WireError):
            decode_answer(wrong)


@given(st.data())
@settings(max_examples=150)
def test_damaged_chunks_are_refused_or_still_chunks(data: st.DataObject) -> None:
    whole = bytearray(encode_chunk(make_chunk(num_samples=2, size_px=(4, 4)), clock=clock))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(600, len(whole) - 1)))] = data.draw(st.integers(0, 255))
    try:
        chunk = decode_chunk(bytes(whole), clock=clock)
    except WireError:
        return
    assert chunk.samples.windows().shape == (len(chunk.samples), 15_600)


@given(st.integers(0, 5000))
def test_cut_chunks_are_refused(at: int) -> None:
    whole = encode_chunk(make_chunk(num_samples=1, size_px=(4, 4)), clock=clock)
    with pytest.raises(WireError):
        decode_chunk(whole[:at], clock=clock)
    with pytest.raises(WireError):
        decode_chunk(whole + b"\0", clock=clock)


@pytest.mark.parametrize(
    "change",
    [
        {"frames": [33, 64, 64]},
        {"frames": [3, 10**9, 10**9]},
        {"frames": [3, 64]},
        {"frames": [True, 64, 64]},
        {"audio": -1},
        {"audio": 10**12},
        {"chunk_no": -1},
        {"chunk_no": "1"},
        {"timeout_ms": -5},
        {"timeout_ms": 1e300},
        {"is_interactive": 1},
        {"request_id": 5},
        {"masks": {"output_size": [0, 5], "threshold": 0.5, "labels": ["a"], "min_area": 0}},
        {"masks": {"output_size": [10**6, 5], "threshold": 0.5, "labels": ["a"], "min_area": 0}},
        {"masks": {"output_size": [5, 5], "threshold": 2.0, "labels": ["a"], "min_area": 0}},
        {"masks": {"output_size": [5, 5], "threshold": 0.5, "labels": [1], "min_area": 0}},
        {"masks": None},
    ],
)
def test_wrong_headers_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decode_chunk(with_header(encode_chunk(make_chunk(), clock=clock), change), clock=clock)


def test_windows_outside_the_sound_are_refused() -> None:
    chunk = make_chunk()
    chunk.samples.offsets[1] = 10**6
    with pytest.raises(WireError, match="window"):
        decode_chunk(encode_chunk(chunk, clock=clock), clock=clock)
    chunk.samples.offsets[1] = -1
    with pytest.raises(WireError, match="window"):
        decode_chunk(encode_chunk(chunk, clock=clock), clock=clock)


def test_times_must_rise_and_be_finite() -> None:
    chunk = make_chunk()
    chunk.samples.sample_times_s[2] = chunk.samples.sample_times_s[0]
    with pytest.raises(WireError, match="rise"):
        decode_chunk(encode_chunk(chunk, clock=clock), clock=clock)
    chunk.samples.timestamps_s[0] = np.nan
    with pytest.raises(WireError, match="finite"):
        decode_chunk(encode_chunk(chunk, clock=clock), clock=clock)


def test_answers_with_wrong_types_are_refused() -> None:
    answer = SegmentedChunk((FrameMasks(1.0, 1.0, 3, ()),), 0.1, 0.2, 0.3)
    for change in ({"queue_s": "1"}, {"frames": 3}, {"frames": [{}]}, {"predict_s": float("nan")}, {"encode_s": None}):
        with pytest.raises(WireError):
            decode_answer(with_header(encode_answer(answer), change))
    failure = encode_answer(ServiceError("internal", "x"))
    for change in ({"code": "other"}, {"detail": 5}, {"retry_after_s": "soon"}):
        with pytest.raises(WireError):
            decode_answer(with_header(failure, change))


def with_header(message: bytes, change: dict[str, object]) -> bytes:
    prefix = struct.Struct("<4sBBI")
    magic, version, kind, length = prefix.unpack_from(message)
    header = json.loads(message[prefix.size : prefix.size + length]) | change
    text = json.dumps(header).encode()
    return prefix.pack(magic, version, kind, len(text)) + text + message[prefix.size + length :]


def test_maps_travel_and_forged_ones_are_refused():
    good = ProbabilityMap((2, 3), base64.b64encode(bytes(range(6))).decode())
    frame = FrameMasks(1.0, 1.0, 3, (Mask("dog", 0.5, 4, (0, 1, 2, 2), Rle((4, 5), "abc")),))
    answer = SegmentedChunk((frame,), 0.1, 0.2, 0.3, ((good,),))
    assert decode_answer(encode_answer(answer)) == answer
    for maps in (
        ((),) * 2,
        ((good, good),),
        ((ProbabilityMap((3, 3), good.values),),),
        ((ProbabilityMap((0, 3), ""),),),
    ):
        with pytest.raises(WireError):
            decode_answer(encode_answer(replace(answer, maps=maps)))
