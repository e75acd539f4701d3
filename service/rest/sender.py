"""Writing an answer to a client that may read slowly, or not at all."""

from __future__ import annotations

import asyncio
from typing import IO

from starlette.types import Scope, Send

from service.domain.errors import ServiceError
from service.rest.protocol import connection_of

PIECE_BYTES = 64 * 1024


class Sender:
    """The one writer of a response. A reader without progress for `stall_s` is cut and counts as gone."""

    def __init__(self, scope: Scope, send: Send, *, stall_s: float) -> None:
        self._send = send
        self._stall_s = stall_s
        self._connection = connection_of(scope)
        self.media_type = ""
        self.has_started = False
        self.has_ended = False

    async def start(self, headers: dict[str, str], *, status: int = 200) -> None:
        """Send the status and the headers."""
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self.has_started = True
        self.media_type = headers.get("Content-Type", "")
        await self._write({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; raises `client_gone` when the reader stalls."""
        await self._write({"type": "http.response.body", "body": data, "more_body": True})

    async def write_file(self, file: IO[bytes]) -> None:
        """Send the rest of a file."""
        while piece := file.read(PIECE_BYTES):
            await self.write(piece)

    async def end(self) -> None:
        """The body is complete."""
        await self._write({"type": "http.response.body", "body": b"", "more_body": False})
        self.has_ended = True

    def cut(self) -> None:
        """Drop the connection, so that its reader sees a cut stream and not a short answer."""
        if self._connection is not None and not self.has_ended:
            self._connection.cut()

    async def _write(self, message: dict[str, object]) -> None:
        if self._connection is not None and not self._connection.is_congested():
            await self._send(message)
            return
        sending = asyncio.ensure_future(self._send(message))
        try:
            unread = self._num_unread()
            while not (await asyncio.wait({sending}, timeout=self._stall_s))[0]:
                before, unread = unread, self._num_unread()
                if unread >= before:
                    raise ServiceError("client_gone", f"The reader took nothing for {self._stall_s:g} s.")
            sending.result()
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _num_unread(self) -> int:
        return 0 if self._connection is None else self._connection.num_unread_bytes()
