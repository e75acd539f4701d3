"""Write an answer as a file in any format."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from service.client.answer import Answer, answer_events, answer_start
from service.codec.answer_json import encode_document_end, encode_document_start, encode_frame, encode_line
from service.domain.option_table import Option
from service.domain.option_types import Choice
from service.domain.request import AnswerEvent

# Ends of file names by format. Server-sent events are no file, and the overlay needs the clip.
SUFFIXES = {
    "json": ".json",
    "ndjson": ".ndjson",
    "coco": ".coco.json",
    "polygons": ".polygons.json",
    "png": ".zip",
    "csv": ".csv",
    "vtt": ".vtt",
    "srt": ".srt",
}
FORMAT = Option(
    name="format",
    type=Choice(tuple(SUFFIXES)),
    default="json",
    help="Format of --output; docs/contract.md describes each. Overlay videos have --overlay.",
)
_NO_BOUND = 1 << 62


def write_answer(
    answer: Answer, path: Path, *, streamed: Sequence[AnswerEvent], name: str, is_compressed: bool
) -> None:
    """Write an answer as the service would send it; the file appears when it is complete.

    Args:
        answer: to write.
        streamed: the events of the answer in the order in which they came, which is that of NDJSON lines.
        path: of the file; `-` is stdout, with a newline behind a JSON document.
        name: of SUFFIXES.
        is_compressed: run lengths as COCO's strings.
    """
    parts = _parts(answer, streamed, name=name, is_compressed=is_compressed)
    if str(path) == "-":
        for part in parts:
            sys.stdout.buffer.write(part)
        if name in ("json", "coco", "polygons"):
            sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _parts(answer: Answer, streamed: Sequence[AnswerEvent], *, name: str, is_compressed: bool) -> Iterable[bytes]:
    if name == "json":
        return _json_parts(answer, is_compressed=is_compressed)
    if name == "ndjson":
        events = itertools.chain([answer_start(answer)], streamed[1:])  # the first one may lack what the end tells
        return (encode_line(event, is_compressed=is_compressed) for event in events)
    return _formatted_parts(answer, name=name, is_compressed=is_compressed)


def _json_parts(answer: Answer, *, is_compressed: bool) -> Iterator[bytes]:
    yield encode_document_start(answer_start(answer), answer.summary)
    for place, frame in enumerate(answer.frames):
        yield (b"," if place else b"") + encode_frame(frame, is_compressed=is_compressed)
    yield encode_document_end(answer.summary, answer.events)


def _formatted_parts(answer: Answer, *, name: str, is_compressed: bool) -> Iterator[bytes]:
    from service.formats.choose import formatter_of  # needs numpy and OpenCV, which the client alone does not bring

    formatter = formatter_of(name, is_compressed=is_compressed, max_bytes=_NO_BOUND)
    parts = [formatter.add(event) for event in answer_events(answer)]
    yield formatter.opening()
    yield from parts
