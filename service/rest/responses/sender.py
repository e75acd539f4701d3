"""Writer of a response to a client that may read slowly or not at all, and of heartbeats in its pauses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Scope, Send

from service.aio.interrupt import Interrupt
from service.aio.tasks import end_tasks
from service.aio.turns import SLICE_S
from service.core import message_writer
from service.core.reader_rate import ReaderRate
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.media.spool_file import SpoolFile
from service.rest.connection.protocol import connection_of

PIECE_BYTES = 64 * 1024
# Seconds that a reader that was too slow may take for the data already written and the error after it.
_LAST_PIECE_S = 30.0
# Shortest sleep in seconds between two looks at whether a heartbeat is due.
_LEAST_SLEEP_S = 0.01


class Sender:
    """The only writer of a response. A reader that is too slow ends it."""

    def __init__(self, scope: Scope, send: Send, *, rate: ReaderRate, clock: Clock) -> None:
        self._send = send
        self._rate = rate
        self._clock = clock
        self._connection = connection_of(scope)
        self._writing = asyncio.Lock()
        self._written_at_s = self._waited_at_s = clock()
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
        """Send a piece of the body; raises `slow_reader`."""
        await self._write({"type": "http.response.body", "body": data, "more_body": True})
        if self._written_at_s - self._waited_at_s >= SLICE_S:
            # `_send` waits only for a slow reader, so that a fast one would hold the loop for its whole answer.
            await asyncio.sleep(0)
            self._waited_at_s = self._clock()

    async def write_file(self, file: SpoolFile) -> None:
        """Send the rest of a file."""
        while piece := file.read(PIECE_BYTES):
            await self.write(piece)

    async def end(self) -> None:
        """End the body."""
        await self._write({"type": "http.response.body", "body": b"", "more_body": False})
        self.has_ended = True

    @asynccontextmanager
    async def beating(self, heartbeat: bytes) -> AsyncIterator[None]:
        """Write `heartbeat` after every 10 s without another piece while the body runs; raises `slow_reader`."""
        with Interrupt() as interrupt:
            beating = asyncio.create_task(self._beat(heartbeat, interrupt), name="heartbeat")
            try:
                yield
            finally:
                await end_tasks([beating])

    def cut(self) -> None:
        """Drop the connection, so that its reader sees a cut stream and not a short answer."""
        if self._connection is not None and not self.has_ended:
            self._connection.cut()

    def end_without_waiting(self, data: bytes) -> None:
        """End a streamed answer with a last piece, which a reader gets if it continues soon."""
        if self._connection is not None and not self.has_ended:
            self._connection.end_chunked(data, within_s=_LAST_PIECE_S)

    async def _beat(self, heartbeat: bytes, interrupt: Interrupt) -> None:
        while True:
            silent_s = self._clock() - self._written_at_s
            if silent_s < message_writer.HEARTBEAT_S:
                await asyncio.sleep(max(_LEAST_SLEEP_S, message_writer.HEARTBEAT_S - silent_s))
                continue
            if self._writing.locked():  # a piece waits for the reader
                await asyncio.sleep(message_writer.HEARTBEAT_S)
                continue
            try:
                await self.write(heartbeat)
            except ServiceError as error:
                interrupt.fire(error)
                return

    async def _write(self, message: dict[str, object]) -> None:
        async with self._writing:
            if self._connection is None or self._connection.is_congested():
                await self._write_slowly(message)
            else:
                await self._send(message)
            self._written_at_s = self._clock()

    async def _write_slowly(self, message: dict[str, object]) -> None:
        """Send a message that may have to wait for the reader, whose rate is measured meanwhile."""
        sending = asyncio.ensure_future(self._send(message))
        unread = self._num_unread()
        if not unread:
            self._rate.caught_up()
        try:
            while not sending.done():
                since_s = self._clock()
                await asyncio.wait({sending}, timeout=self._rate.poll_s)
                before, unread = unread, self._num_unread()
                self._rate.add(self._clock() - since_s, max(0, before - unread))
            sending.result()
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _num_unread(self) -> int:
        return 0 if self._connection is None else self._connection.num_unread_bytes()
