"""Accept connections, and keep accepting when the process runs out of descriptors.

asyncio's own accept loop (Python 3.11) logs the failure once for each entry of the backlog and reschedules itself as
often, which fills a disk with log lines. This one answers 503, pauses and logs one line a minute.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable

from service.aio.tasks import end_tasks
from service.domain.deadline import Clock

logger = logging.getLogger(__name__)

# Connections accepted each time the listener is readable, so that other work of the event loop gets its turn.
_BURST = 64
_PAUSE_S = 0.1
_LOG_EVERY_S = 60.0
_TLS_HANDSHAKE_S = 10.0
# For handshakes in progress when the server stops.
_CLOSING_S = 1.0
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_NO_RESOURCES = (*_NO_DESCRIPTOR, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts connections of one listening socket and hands each to a protocol.

    Args:
        listener: non-blocking listening socket; closed by `aclose`.
        make_protocol: makes the protocol of one connection.
        tls: TLS context, None for plain HTTP.
        refusal: bytes sent to a connection that finds no descriptor (plain HTTP only).
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        *,
        tls: ssl.SSLContext | None,
        refusal: bytes,
        clock: Clock,
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._tls = tls
        self._refusal = refusal
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._spare: int | None = _open_spare()
        self._connecting: set[asyncio.Task[None]] = set()
        self._resuming: asyncio.TimerHandle | None = None
        self._logged_at_s = -_LOG_EVERY_S
        self._num_failures = 0

    def start(self) -> None:
        """Begin to accept."""
        self._resuming = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    async def aclose(self) -> None:
        """Take the connections that already wait, close the listener, end handshakes that take long; idempotent.

        Closing the listener resets the connections that wait in its backlog, although their clients see them as open.
        """
        if self._listener.fileno() < 0:
            return
        self._loop.remove_reader(self._listener.fileno())
        if self._resuming is not None:
            self._resuming.cancel()
        self._accept()
        self._listener.close()
        if self._connecting:
            await asyncio.wait(self._connecting, timeout=_CLOSING_S)
        await end_tasks(list(self._connecting))
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _accept(self) -> None:
        for _ in range(_BURST):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_RESOURCES:
                    raise
                self._on_exhaustion(error)
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        timeout_s = None if self._tls is None else _TLS_HANDSHAKE_S
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol, connection, ssl=self._tls, ssl_handshake_timeout=timeout_s
            )
        except (OSError, TimeoutError):  # the client left, or its handshake failed
            connection.close()

    def _on_exhaustion(self, error: OSError) -> None:
        """Refuse one waiting connection with the spare descriptor, pause, and log at most once a minute."""
        self._num_failures += 1
        now = self._clock()
        if now - self._logged_at_s >= _LOG_EVERY_S:
            self._logged_at_s = now
            logger.error(
                "connections cannot be accepted; raise the limit of open files (ulimit -n)",
                extra={"reason": errno.errorcode.get(error.errno or 0, "?"), "num_failures": self._num_failures},
            )
        if error.errno in _NO_DESCRIPTOR:
            self._refuse_with_spare()
        if self._loop.remove_reader(self._listener.fileno()):
            self._resuming = self._loop.call_later(_PAUSE_S, self.start)

    def _refuse_with_spare(self) -> None:
        """Accept with the descriptor held for this case, answer, and take the descriptor back."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            try:
                connection, _ = self._listener.accept()
                with connection:
                    connection.setblocking(False)
                    if self._tls is None:
                        connection.send(self._refusal)
                        connection.shutdown(socket.SHUT_WR)
            except OSError as error:
                logger.debug("a connection could not be refused", extra={"reason": type(error).__name__})
        self._spare = _open_spare()


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
