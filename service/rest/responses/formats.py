"""The answer in the format that the request chose: by the option `format`, else by `Accept`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from service.core.answer_document import MEMORY_BYTES, AnswerDocument
from service.core.overlay_file import write_overlay
from service.core.request_log import RequestRecord
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.options import RLE
from service.domain.request import AnswerEvent
from service.domain.result import Summary
from service.formats.choose import FORMAT, MEDIA_TYPES, WITH_RUN_LENGTHS, formatter_of
from service.media.upload import Upload
from service.rest.parts import RestParts
from service.rest.responses.answer_lines import record_end, send_lines
from service.rest.responses.sender import Sender

# File names of formats that a browser saves rather than shows.
_SUFFIXES = {
    "coco": "coco.json",
    "polygons": "polygons.json",
    "png": "zip",
    "vtt": "vtt",
    "srt": "srt",
    "csv": "csv",
    "overlay": "mp4",
}


@dataclass(frozen=True, slots=True)
class ChosenFormat:
    """A format and the form of its run lengths."""

    name: str
    is_compressed: bool = True

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is sent while it is computed."""
        return self.name in ("ndjson", "sse")


def take_format(options: dict[str, str], *, accepted: str) -> ChosenFormat:
    """Take `format` and `rle` out of text options; a blank one counts as not given. Raises `bad_option`.

    Args:
        options: of query and form; changed.
        accepted: the format that `Accept` asks for.
    """
    name = options.pop(FORMAT.name, "").strip()
    rle = options.pop(RLE.name, "").strip()
    chosen = str(FORMAT.parse(name)) if name else accepted
    is_compressed = not rle or RLE.parse(rle) == RLE.default
    if not is_compressed and chosen not in WITH_RUN_LENGTHS:
        have = ", ".join(WITH_RUN_LENGTHS)
        raise ServiceError("bad_option", f"rle: the format {chosen} has no run lengths; {have} have them.")
    return ChosenFormat(chosen, is_compressed)


async def send_answer(
    events: AsyncGenerator[AnswerEvent, None],
    chosen: ChosenFormat,
    sender: Sender,
    record: RequestRecord,
    *,
    parts: RestParts,
) -> None:
    """Send an answer in the chosen format: lines as they are ready, anything else as a whole at the end.

    What is sent as a whole is collected in memory, beyond 1 MiB on disk.

    Raises:
        ServiceError: of `events`, also after the first line was sent; `answer_too_large`, `storage_full`.
    """
    if chosen.is_streamed:
        is_sse = chosen.name == "sse"
        await send_lines(events, sender, record, is_sse=is_sse, is_compressed=chosen.is_compressed)
        return
    max_bytes, party = parts.policy.max_answer_bytes, record.caller.party
    formatter = formatter_of(chosen.name, is_compressed=chosen.is_compressed, max_bytes=max_bytes)
    with parts.spool.open_answer(max_bytes=max_bytes, memory_bytes=MEMORY_BYTES, party=party) as file:
        document = AnswerDocument(formatter, file, max_bytes=max_bytes)
        async with aclosing(events):
            async for event in events:
                await document.add(event)
                if isinstance(event, Summary):
                    record_end(event, record)
        opening = formatter.opening()
        await sender.start(_headers(chosen.name, len(opening) + file.size))
        await sender.write(opening)
        await sender.write_file(file)
        await sender.end()


async def send_overlay(
    events: AsyncGenerator[AnswerEvent, None],
    upload: Upload,
    sender: Sender,
    record: RequestRecord,
    *,
    parts: RestParts,
    deadline: Deadline,
) -> None:
    """Send the clip with its masks drawn on it. A jailed process draws; its file is collected as other formats are.

    Raises:
        ServiceError: of `events`; why the clip cannot be drawn on; `answer_too_large`, `storage_full`.
    """
    max_bytes, party = parts.policy.max_answer_bytes, record.caller.party
    with parts.spool.open_answer(max_bytes=max_bytes, memory_bytes=MEMORY_BYTES, party=party) as file:
        summary = await write_overlay(events, upload, file, draw=parts.draw, max_bytes=max_bytes, deadline=deadline)
        if summary is not None:
            record_end(summary, record)
        await sender.start(_headers("overlay", file.size))
        await sender.write_file(file)
        await sender.end()


def _headers(name: str, num_bytes: int) -> dict[str, str]:
    headers = {"Content-Type": MEDIA_TYPES[name], "Content-Length": str(num_bytes)}
    if name in _SUFFIXES:
        headers["Content-Disposition"] = f'attachment; filename="answer.{_SUFFIXES[name]}"'
    return headers
