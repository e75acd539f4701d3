"""Answers as JSON: the document, its lines, and what /openapi.json says of them."""

import json
from dataclasses import asdict, fields

import pytest

from service.codec.answer_json import (
    HEARTBEAT_LINE,
    LINES,
    Answer,
    decode_document,
    decode_line,
    decode_stored,
    encode_document_end,
    encode_document_start,
    encode_error_line,
    encode_frame,
    encode_line,
)
from service.codec.problem_json import Problem, decode_problem
from service.domain.clip import AudioInfo, ClipInfo
from service.domain.errors import ServiceError
from service.domain.options import OPTION_NAMES, SegmentOptions
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, Mask, ModelInfo, Rle, SoundEvent, Summary

MODEL = ModelInfo("tiny", "sha256:ab", ("dog", "drum"), None, 224, 320)
CLIP = ClipInfo(640, 480, "4:3", None, None, None, AudioInfo(1, "aac", 2, 48_000, "eng"))
STARTED = ClipStarted("id", MODEL, CLIP, SegmentOptions(fps="native", audio_track=1).resolve(MODEL))
FRAME = FrameMasks(0.9375, 0.934267, 28, (Mask("dog", 0.91, 6, (0, 1, 2, 3), Rle((480, 640), "0é\\")),))
EVENT = SoundEvent("dog", None, 0.5, 1.5, 6, 0.91)
SUMMARY = Summary(2, {"total": 0.25}, True, ("clipped",))


@pytest.mark.parametrize("event", [STARTED, FRAME, FrameMasks(1.0, 1.0, 3, ()), EVENT, SUMMARY])
def test_a_line_is_read_back(event: ClipStarted | FrameMasks | SoundEvent | Summary) -> None:
    line = encode_line(event)
    assert line.count(b"\n") == 1
    assert decode_line(line) == event
    spaced = json.dumps(json.loads(line)).encode()
    assert decode_line(spaced) == event
    assert list(decode_stored(line * 2)) == [event, event]


def test_the_document_is_one_json_object_with_the_members_of_the_contract() -> None:
    parts = [encode_document_start(STARTED, SUMMARY), encode_frame(FRAME), b",", encode_frame(FRAME)]
    data = b"".join([*parts, encode_document_end(SUMMARY, [EVENT])])
    document = json.loads(data)
    assert list(document) == ["request_id", "model", "clip", "options", "frames", "events", "timings_s", "cached"]
    assert document["clip"]["num_samples"] == 2
    assert document["clip"]["audio"] == {
        "track": 1, "codec": "aac", "channels": 2, "sample_rate_hz": 48_000, "language": "eng", "notes": ["clipped"],
    }  # fmt: skip
    assert tuple(document["options"]) == tuple(name for name in OPTION_NAMES if name != "instances")
    assert document["options"]["fps"] == "native"
    mask = document["frames"][0]["masks"][0]
    assert mask == {
        "label": "dog", "score": 0.91, "area": 6, "bbox": [0, 1, 2, 3],
        "segmentation": {"size": [480, 640], "counts": "0é\\"},
    }  # fmt: skip
    answer = decode_document(data)
    assert document["events"] == [asdict(EVENT)]
    assert answer.events == (EVENT,)
    assert (answer.frames, answer.timings_s, answer.cached) == ((FRAME, FRAME), {"total": 0.25}, True)
    assert {field.name for field in fields(Answer)} == set(document)


def test_lines_without_an_event() -> None:
    problem = Problem.of(ServiceError("queue_full", "why", retry_after_s=1.2), status=429, request_id="id")
    assert decode_line(encode_error_line(problem)) == problem
    assert decode_problem(problem.encode()) == problem
    assert json.loads(problem.encode())["retry_after_s"] == 2
    assert "retry_after_s" not in json.loads(
        Problem.of(ServiceError("broken", "why"), status=422, request_id="").encode()
    )
    assert decode_line(HEARTBEAT_LINE) is None
    assert {line.__name__ for line in LINES} == {
        "ClipLine",
        "FrameLine",
        "EventLine",
        "HeartbeatLine",
        "EndLine",
        "ErrorLine",
    }


@pytest.mark.parametrize("bad", [b"", b"x", b"[]", b'{"type":"frame",', b'{"type":"frame","index":1}'])
def test_what_is_no_line_is_refused(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_line(bad)
    if bad:
        with pytest.raises(ServiceError, match="stored answer"):
            list(decode_stored(bad))


def test_only_events_are_stored() -> None:
    with pytest.raises(ServiceError, match="stored answer"):
        list(decode_stored(HEARTBEAT_LINE))
