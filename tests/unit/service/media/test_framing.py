"""Messages between a child and its parent: a round trip for sound ones, a refusal for all others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.components.decoding import make_job

from service.domain.chunk import WINDOW_SAMPLES, SampleBlock
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.media import framing
from service.media.framing import FrameSize, ProtocolError

SIZE = FrameSize(4, 6)
CLIP = ClipInfo(640, 360, "1:1", 3.5, 29.97, None)


def make_block(num: int = 3) -> SampleBlock:
    rng = np.random.default_rng(0)
    return SampleBlock(
        frames=rng.integers(0, 255, (num, 4, 6, 3), np.uint8),
        audio=rng.integers(-32768, 32767, WINDOW_SAMPLES + 100 * num, np.int16),
        offsets=np.arange(num, dtype=np.int64) * 100,
        sample_times_s=np.arange(num) + 0.5,
        timestamps_s=np.arange(num) + 0.25,
        indexes=np.arange(num, dtype=np.int64) * 7,
    )


def body_of(message: bytes) -> bytes:
    _, length = framing.HEADER.unpack_from(message)
    assert len(message) == framing.HEADER.size + length
    return message[framing.HEADER.size :]


def packed_block(num: int = 3) -> bytes:
    return b"".join(bytes(part) for part in framing.pack_block(make_block(num)))


def test_a_block_comes_back_as_it_was() -> None:
    block, back = make_block(), framing.unpack_block(body_of(packed_block()), SIZE)
    for name in ("frames", "audio", "offsets", "sample_times_s", "timestamps_s", "indexes"):
        np.testing.assert_array_equal(getattr(block, name), getattr(back, name))
    rest = framing.drop_samples(back, 2)
    np.testing.assert_array_equal(rest.windows(), block.windows()[2:])


def test_a_block_holds_1_to_8_samples() -> None:
    with pytest.raises(ProtocolError):
        framing.unpack_block(body_of(packed_block(9)), SIZE)
    with pytest.raises(ProtocolError):
        framing.unpack_block(bytes(6), SIZE)


def test_the_largest_block_keeps_its_bound_and_a_byte_more_does_not() -> None:
    most = framing.max_body_bytes(framing.BLOCK, SIZE)
    block = make_block(8)
    spread = SampleBlock(
        frames=block.frames,
        audio=np.zeros(8 * WINDOW_SAMPLES, np.int16),
        offsets=np.arange(8, dtype=np.int64) * WINDOW_SAMPLES,
        sample_times_s=block.sample_times_s,
        timestamps_s=block.timestamps_s,
        indexes=block.indexes,
    )
    assert len(body_of(b"".join(bytes(part) for part in framing.pack_block(spread)))) == most
    with pytest.raises(ProtocolError):
        framing.max_body_bytes(99, SIZE)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_block_is_refused_or_well_formed(data: st.DataObject) -> None:
    body = bytearray(body_of(packed_block()))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, 6 + 3 * 32))] = data.draw(st.integers(0, 255))
    try:
        block = framing.unpack_block(body, SIZE)
    except ProtocolError:
        return
    assert block.frames.shape == (len(block), 4, 6, 3)
    assert block.windows().shape == (len(block), WINDOW_SAMPLES)
    assert (np.diff(block.sample_times_s) > 0).all()


def test_clips_and_needs_come_back() -> None:
    assert framing.unpack_clip(body_of(framing.pack_clip(framing.CLIP, CLIP))) == CLIP
    assert framing.unpack_need(body_of(framing.pack_need(2**40))) == 2**40


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": "640"},
        {"height": 2**20},
        {"sample_aspect_ratio": "x" * 100},
        {"duration_s": -1},
        {"duration_s": "long"},
        {"frame_rate": 1e300},
        {"num_samples": 1.5},
        {"num_samples": True},
    ],
)
def test_a_clip_of_nonsense_is_refused(change: dict[str, object]) -> None:
    fields = json.loads(body_of(framing.pack_clip(framing.CLIP, CLIP))) | change
    with pytest.raises(ProtocolError):
        framing.unpack_clip(json.dumps(fields).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 10_000, b'{"code": 1}', b'{"code": "client_gone"}'])
def test_an_error_of_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        framing.unpack_error(body)


def test_errors_come_back_printable_and_short() -> None:
    error, cause = framing.unpack_error(
        body_of(framing.pack_error(ServiceError("broken", "bad\n\x1b[31m" + "x" * 2000), cause="ValueError at a.py:1"))
    )
    assert (error.code, cause) == ("broken", "ValueError at a.py:1")
    assert error.detail.isprintable()
    assert len(error.detail) <= 500


def test_a_child_may_only_say_what_a_child_can_know() -> None:
    message = framing.pack_error(ServiceError("unauthenticated", "give me your key"))
    with pytest.raises(ProtocolError):
        framing.unpack_error(body_of(message))


def test_a_job_comes_back() -> None:
    job = make_job(fps=None, start_s=0.5, end_s=1.5)
    assert framing.unpack_job(json.loads(json.dumps(framing.pack_job(job)))) == job
