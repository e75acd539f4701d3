"""Answers as JSON: the document and the lines of REST, and the lines in which answers are stored.

The shapes are those of the domain's dataclasses, so a new field of a mask, a frame or the clip appears here without a
change. Servers and clients share these functions, and /openapi.json documents the classes at the end.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from pydantic_core import to_json

from service.codec.problem_json import Problem
from service.codec.run_lengths import segmentation
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent, ClipStarted, complete_clip
from service.domain.result import FrameMasks, SoundEvent, Summary

# The kinds of lines that carry an event, by their `type`. A new kind of event is added here.
_EVENT_KINDS: Final[dict[str, type[Any]]] = {
    "clip": ClipStarted,
    "frame": FrameMasks,
    "event": SoundEvent,
    "end": Summary,
}
_ADAPTERS: Final[dict[str, TypeAdapter[Any]]] = {name: TypeAdapter(kind) for name, kind in _EVENT_KINDS.items()}
_KIND_NAMES: Final = {kind: name for name, kind in _EVENT_KINDS.items()}
_STARTED, _FRAME, _EVENT, _SUMMARY = (_ADAPTERS[name] for name in _EVENT_KINDS)
# How a line of each kind begins where this module wrote it; lets readers choose the adapter without parsing twice.
_PREFIXES: Final = {name: b'{"type":"%s",' % name.encode() for name in _EVENT_KINDS}
# Without instances, the options of an answer do not list the option.
_NO_INSTANCES: Final[Any] = {"options": {"instances"}}
HEARTBEAT_LINE: Final = b'{"type":"heartbeat"}\n'


def encode_line(event: AnswerEvent, *, is_compressed: bool = True) -> bytes:
    """Return an event as one line of NDJSON, newline included; see `encode_frame` for `is_compressed`."""
    name = _KIND_NAMES[type(event)]
    if isinstance(event, FrameMasks):
        data = encode_frame(event, is_compressed=is_compressed)
    elif isinstance(event, ClipStarted):
        data = _encode_started(event)
    else:
        data = bytes(_ADAPTERS[name].dump_json(event))
    return _PREFIXES[name] + data[1:] + b"\n"


def encode_error_line(problem: Problem) -> bytes:
    """Return the last line of an answer that failed after its first frame."""
    return b'{"type":"error","problem":%s}\n' % problem.encode()


def decode_line(line: bytes) -> AnswerEvent | Problem | None:
    """Return the event or the problem of one line; None for a heartbeat or a kind that this version does not know.

    Raises:
        ValueError: the line is not JSON, or not of the shape that its type has.
    """
    for name, prefix in _PREFIXES.items():
        if line.startswith(prefix):
            return _validated(name, line)
    kind = _TYPE.validate_json(line).type
    if kind == "error":
        return _ERROR_LINE.validate_json(line).problem
    return _validated(kind, line) if kind in _ADAPTERS else None


def decode_stored(data: bytes) -> Iterator[AnswerEvent]:
    """Return the events of lines that `encode_line` wrote; an iterator that raises as `decode_stored_line`."""
    # BytesIO shares the bytes; a list of lines would copy the whole answer for each reader.
    return map(decode_stored_line, io.BytesIO(data))


def decode_stored_line(line: bytes) -> AnswerEvent:
    """Return the event of a line that `encode_line` wrote; raises ServiceError `internal` for anything else."""
    try:
        event = decode_line(line)
    except (ValueError, ServiceError) as error:
        raise ServiceError("internal", "A stored answer could not be read.") from error
    if event is None or isinstance(event, Problem):
        raise ServiceError("internal", "A stored answer could not be read.")
    return event


def encode_document_start(started: ClipStarted, summary: Summary) -> bytes:
    """Return the JSON document up to its first frame. Frames follow, separated by commas."""
    clip = complete_clip(started.clip, summary)
    return _encode_started(dataclasses.replace(started, clip=clip))[:-1] + b',"frames":['


def encode_frame(frame: FrameMasks, *, is_compressed: bool = True) -> bytes:
    """Return one element of the document's `frames`; masks have no `track_id` and `gap_s` where there is none.

    Args:
        frame: with its masks.
        is_compressed: whether run lengths are COCO's strings, which `decode_line` and `decode_document` read, or lists
            of numbers.
    """
    if is_compressed:
        return bytes(_FRAME.dump_json(frame, exclude_none=True))
    document = _FRAME.dump_python(frame, exclude_none=True)
    for written, mask in zip(document["masks"], frame.masks, strict=True):
        written["segmentation"] = segmentation(mask.segmentation, is_compressed=False)
    return to_json(document)


def encode_event(event: SoundEvent) -> bytes:
    """Return one element of the document's `events`."""
    return bytes(_EVENT.dump_json(event))


def encode_document_end(summary: Summary, events: Iterable[SoundEvent]) -> bytes:
    """Return the JSON document after its last frame; the rest of the summary stands under `clip`."""
    listed = b",".join(encode_event(event) for event in events)
    rest = bytes(_SUMMARY.dump_json(summary, exclude={"num_samples", "audio_notes"})[1:])
    return b'],"events":[' + listed + b"]," + rest


def decode_document(data: bytes) -> Answer:
    """Return the answer of a JSON document; raises ValueError for anything else."""
    return _DOCUMENT.validate_json(data)


def _encode_started(started: ClipStarted) -> bytes:
    return bytes(_STARTED.dump_json(started, exclude=None if started.options.instances else _NO_INSTANCES))


def _validated(name: str, line: bytes) -> AnswerEvent:
    event: AnswerEvent = _ADAPTERS[name].validate_json(line)
    return event


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(ClipStarted):
    """The whole answer as one JSON document."""

    frames: tuple[FrameMasks, ...]
    events: tuple[SoundEvent, ...] = dataclasses.field(metadata={"description": "In order of their starts."})
    timings_s: dict[str, float] = dataclasses.field(metadata=Summary.__dataclass_fields__["timings_s"].metadata)
    cached: bool = dataclasses.field(metadata=Summary.__dataclass_fields__["cached"].metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipLine(ClipStarted):
    """The first line of an NDJSON answer."""

    type: Literal["clip"] = "clip"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameLine(FrameMasks):
    """One line per frame, in order."""

    type: Literal["frame"] = "frame"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLine(SoundEvent):
    """A line for each event, after the frame that closes it."""

    type: Literal["event"] = "event"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndLine(Summary):
    """The last line of a complete answer."""

    type: Literal["end"] = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatLine:
    """A line after every 10 s without another line."""

    type: Literal["heartbeat"] = "heartbeat"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorLine:
    """The last line of an answer that failed after its first frame."""

    type: Literal["error"] = "error"
    problem: Problem


@dataclass(frozen=True, slots=True)
class _Typed:
    """The member that every line has."""

    type: str


_TYPE: Final = TypeAdapter(_Typed)
_ERROR_LINE: Final = TypeAdapter(ErrorLine)
_DOCUMENT: Final = TypeAdapter(Answer)
LINES: Final = (ClipLine, FrameLine, EventLine, HeartbeatLine, EndLine, ErrorLine)
