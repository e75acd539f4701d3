"""A field that is added to a mask, a frame or any other part of an answer reaches the reader over every wire.

The tests walk the dataclasses, so a new field that a format does not carry fails here.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import pytest

from service.codec import answer_json, protobuf
from service.domain.chunk import SegmentedChunk
from service.domain.clip import ClipInfo
from service.domain.errors import CODES
from service.domain.option_table import to_fields
from service.domain.options import OPTION_NAMES, SegmentOptions, parse_options
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent, Summary
from service.redis.wire import decode_answer, encode_answer
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb

ASKED = SegmentOptions(
    fps=2.5,
    start_s=0.5,
    end_s=4.5,
    threshold=0.25,
    size="model",
    labels=("drum",),
    min_area=7,
    audio_track=3,
    instances=True,
    only="events",
    event_onset=0.75,
    event_offset=0.125,
    event_gap_s=1.5,
    event_min_s=2.5,
)
MODEL = ModelInfo("variant", "sha256:ab", ("dog", "drum"), 3, 224, 320)
SAMPLES: dict[object, object] = {int: 7, float: 0.25, str: "text", bool: True}


def sample(kind: Any) -> Any:
    """A value of a type that differs from every default: 7 for int, nested dataclasses from their own fields."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{field.name: sample(hints[field.name]) for field in dataclasses.fields(kind)})
    if get_origin(kind) is tuple:
        members = get_args(kind)
        return (sample(members[0]),) if members[1:] == (...,) else tuple(sample(member) for member in members)
    if get_origin(kind) is dict:
        return {"total": 0.25}
    if get_origin(kind) is Literal:
        return get_args(kind)[-1]
    if get_origin(kind) is not None or isinstance(kind, type(int | None)):
        return sample(next(member for member in get_args(kind) if member is not type(None)))
    return SAMPLES[kind]


def over_json_lines(event: AnswerEvent) -> object:
    return answer_json.decode_line(answer_json.encode_line(event))


def over_protobuf(event: AnswerEvent) -> object:
    sent = protobuf.encode_event(event).SerializeToString()
    return protobuf.decode_event(pb.SegmentResponse.FromString(sent), options=ASKED)


def over_redis(event: AnswerEvent) -> object:
    assert isinstance(event, FrameMasks)
    answer = decode_answer(encode_answer(SegmentedChunk((event,), 0.0, 0.0, 0.0)))
    assert isinstance(answer, SegmentedChunk)
    return answer.frames[0]


WIRES = [over_json_lines, over_protobuf]


@pytest.mark.parametrize("wire", [*WIRES, over_redis])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Mask)])
def test_every_field_of_a_mask(wire: Callable[[AnswerEvent], object], field: str) -> None:
    frame = FrameMasks(1.0, 1.0, 3, (sample(Mask),))
    read = wire(frame)
    assert isinstance(read, FrameMasks)
    assert getattr(read.masks[0], field) == getattr(frame.masks[0], field)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("kind", [FrameMasks, SoundEvent, Summary])
def test_every_field_of_an_event(wire: Callable[[AnswerEvent], object], kind: type[Any]) -> None:
    assert wire(sample(kind)) == sample(kind)


@pytest.mark.parametrize("wire", WIRES)
def test_every_field_of_the_start(wire: Callable[[AnswerEvent], object]) -> None:
    clip = sample(ClipInfo)
    clip = dataclasses.replace(clip, audio=dataclasses.replace(clip.audio, notes=None))  # the Summary tells the notes
    started = ClipStarted("id", MODEL, clip, ASKED.resolve(MODEL))
    assert wire(started) == started


def test_every_option_over_every_way_in() -> None:
    default = SegmentOptions()
    for name in OPTION_NAMES:
        assert getattr(ASKED, name) != getattr(default, name), f"give {name} a value in ASKED"
    assert parse_options(to_fields(ASKED)) == ASKED
    sent = protobuf.encode_options(ASKED).SerializeToString()
    assert protobuf.decode_options(pb.SegmentOptions.FromString(sent)) == ASKED


def test_a_field_added_to_a_mask_needs_no_change_of_the_json_codec() -> None:
    """The JSON adapters are derived, as this copy of the mask with one more field shows."""
    wider = dataclasses.make_dataclass("Mask", [("track_id", int, 0)], bases=(Mask,), frozen=True)
    from pydantic import TypeAdapter

    mask = wider("dog", 0.5, 4, (0, 1, 2, 2), Rle((4, 5), "abc"), 9)
    adapter = TypeAdapter(wider)
    assert adapter.validate_json(adapter.dump_json(mask)) == mask
    assert CODES, "the error table is the other half of every answer"
