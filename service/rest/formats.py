"""The answer in the format that the request chose: by the option `format`, else by `Accept`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from service.core.request_log import RequestRecord
from service.domain.errors import ServiceError
from service.domain.options import RLE
from service.domain.request import AnswerEvent
from service.domain.result import Summary
from service.formats.choose import FORMAT, MEDIA_TYPES, WITH_RUN_LENGTHS, formatter_of
from service.rest.answers import MEMORY_BYTES, answer_json, answer_lines, note
from service.rest.parts import RestParts
from service.rest.sender import Sender

_SUFFIXES = {"coco": "coco.json", "polygons": "polygons.json", "png": "zip", "vtt": "vtt", "srt": "srt", "csv": "csv"}


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
    """Send an answer in the chosen format; raises ServiceError, also after the start."""
    if chosen.is_streamed:
        is_sse = chosen.name == "sse"
        await answer_lines(events, sender, record, is_sse=is_sse, is_compressed=chosen.is_compressed)
    elif chosen.name == "json":
        await answer_json(events, sender, record, parts=parts, is_compressed=chosen.is_compressed)
    else:
        await _answer_file(events, chosen, sender, record, parts=parts)


async def _answer_file(
    events: AsyncGenerator[AnswerEvent, None],
    chosen: ChosenFormat,
    sender: Sender,
    record: RequestRecord,
    *,
    parts: RestParts,
) -> None:
    """Collect the whole file (on disk beyond 1 MiB), then send it; raises `answer_too_large`, `storage_full`."""
    max_bytes, party = parts.policy.max_answer_bytes, record.caller.party
    formatter = formatter_of(chosen.name, is_compressed=chosen.is_compressed, max_bytes=max_bytes)
    with parts.spool.open_answer(max_bytes=max_bytes, memory_bytes=MEMORY_BYTES, party=party) as file:
        async with aclosing(events):
            async for event in events:
                data = await asyncio.to_thread(formatter.add, event)  # drawing and compressing masks takes time
                if file.size + len(data) > max_bytes:
                    detail = f"The answer is over the limit of {max_bytes} bytes; ask for fewer samples or size=model."
                    raise ServiceError("answer_too_large", detail)
                file.write(data)
                if isinstance(event, Summary):
                    note(event, record)
        await sender.start(_headers(chosen.name, file.size))
        await sender.write_file(file)
        await sender.end()


def _headers(name: str, num_bytes: int) -> dict[str, str]:
    return {
        "Content-Type": MEDIA_TYPES[name],
        "Content-Length": str(num_bytes),
        "Content-Disposition": f'attachment; filename="answer.{_SUFFIXES[name]}"',
    }
