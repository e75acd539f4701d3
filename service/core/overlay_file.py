"""The overlay of an answer as one file: the clip with its masks drawn on it by a jailed process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Protocol

from service.core.answer_document import too_large
from service.domain.deadline import Deadline
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Summary
from service.media.spool_file import SpoolFile
from service.media.upload import Upload


class DrawOverlay(Protocol):
    """Draws masks on a clip: `DecoderPool.draw`."""

    def __call__(
        self, upload: Upload, frames: Iterable[FrameMasks], *, audio_track: int | None, deadline: Deadline
    ) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of an mp4; raises ServiceError."""
        ...


async def write_overlay(
    events: AsyncGenerator[AnswerEvent, None],
    upload: Upload,
    file: SpoolFile,
    *,
    draw: DrawOverlay,
    max_bytes: int,
    deadline: Deadline,
) -> Summary | None:
    """Collect the masks of an answer, draw them on its clip and write the new file; return the answer's summary.

    Args:
        events: the answer.
        upload: its complete clip.
        file: takes the mp4.
        draw: draws.
        max_bytes: largest mp4.
        deadline: of the drawing.

    Raises:
        ServiceError: of `events`; why the clip cannot be drawn on; `answer_too_large`, `storage_full`.
    """
    frames: list[FrameMasks] = []
    audio_track: int | None = None
    summary: Summary | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, FrameMasks):
                frames.append(event)
            elif isinstance(event, ClipStarted):
                audio_track = event.clip.audio.track if event.clip.audio is not None else None
            elif isinstance(event, Summary):
                summary = event
    async with aclosing(draw(upload, frames, audio_track=audio_track, deadline=deadline)) as pieces:
        async for piece in pieces:
            if file.size + len(piece) > max_bytes:
                raise too_large(max_bytes)
            file.write(piece)
    return summary
