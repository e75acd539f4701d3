"""The body of an upload, written to its file as it arrives; it is never in memory as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Receive

from service.core.upload_rate import UploadRate
from service.domain.deadline import Clock, Deadline
from service.domain.errors import ServiceError
from service.media.upload import Upload
from service.rest.requests.form import FormParser


class BodyReader:
    """The only reader of a request's body. Counts it and applies the deadline and the rule for slow uploads."""

    def __init__(self, receive: Receive, *, rate: UploadRate, deadline: Deadline, clock: Clock, max_bytes: int) -> None:
        self._receive = receive
        self._rate = rate
        self._left_bytes = max_bytes
        self._deadline = deadline
        self._clock = clock
        self.is_complete = False

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yield the body's bytes as they arrive.

        Raises:
            ServiceError: `client_gone`, `slow_upload`, `deadline_exceeded`, `upload_too_large`.
        """
        while not self.is_complete:
            wait_s = min(self._rate.timeout_s(), self._deadline.remaining_s(self._clock))
            try:
                async with asyncio.timeout(wait_s):
                    message = await self._receive()
            except TimeoutError:
                self._deadline.check(self._clock, stage="upload")
                self._rate.check()
                continue
            if message["type"] == "http.disconnect":
                raise ServiceError("client_gone", "The client disconnected during its upload.")
            self.is_complete = not message.get("more_body", False)
            body: bytes = message.get("body", b"")
            if body:
                self._deadline.check(self._clock, stage="upload")
                self._left_bytes -= len(body)
                if self._left_bytes < 0:
                    raise ServiceError("upload_too_large", "The request is over the limit of bytes; send less.")
                yield body
                if not self.is_complete:
                    self._rate.add(len(body))


async def read_raw(body: BodyReader, upload: Upload) -> tuple[tuple[str, str], ...]:
    """Read a raw body into its upload. It carries no options."""
    async with aclosing(body.read()) as blocks:
        async for block in blocks:
            await upload.write(block)
    if not upload.size:
        raise ServiceError("empty_file", "The body is empty; send the bytes of an MP4 or MOV file.")
    return ()


async def read_form(body: BodyReader, upload: Upload, *, boundary: bytes) -> tuple[tuple[str, str], ...]:
    """Read a form: write its file part `video` to the upload and return its text fields in order.

    Blank fields are left out, since a browser sends a field for every empty input.
    """
    form = FormParser(boundary)
    async with aclosing(body.read()) as blocks:
        async for block in blocks:
            for data in form.feed(block):
                await upload.write(data)
    form.finish()
    if not form.has_file:
        raise ServiceError("missing_file", "The form has no file field `video`.")
    if not upload.size:
        raise ServiceError("empty_file", "The file in the form field `video` is empty.")
    return tuple((name, value) for name, value in form.fields if value.strip())


async def read_text(body: BodyReader, *, max_bytes: int) -> bytes:
    """Return a whole small body; raises `upload_too_large` over `max_bytes`, and what reading raises."""
    parts = bytearray()
    async with aclosing(body.read()) as pieces:
        async for piece in pieces:
            parts += piece
            if len(parts) > max_bytes:
                raise ServiceError("upload_too_large", f"The JSON body is over the limit of {max_bytes} bytes.")
    return bytes(parts)
