"""The service's side of the zygote: requests children, receives their exit codes, replaces a dead or hanging zygote."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.aio.waits import bounded_wait
from service.domain.errors import ServiceError
from service.media.decoders.zygote_process import ZygoteModule, start_zygote, stop_zygote
from service.media.framing import MAX_CONTROL_BYTES

logger = logging.getLogger(__name__)

_START_S = 60.0
_RESTART_PAUSE_S = 0.2
_MAX_RESTART_PAUSE_S = 5.0
_RETRY_S = 0.005
_MAX_SPAWN_TRIES = 3
_SPAWN_PAUSE_S = 0.05
# Unanswered pings in a row after which a zygote is replaced: 3 to 4 s of silence. Pings are counted instead of seconds,
# so that a pause of the whole machine does not count as silence.
_PING_S = 1.0
_MAX_UNANSWERED = 3
_PING = json.dumps({"op": "ping"}).encode()


class _ZygoteGoneError(Exception):
    """The zygote died before it answered, or could not fork."""


@dataclass(eq=False, slots=True)
class Child:
    """A forked child: its id, and futures of its pid and of its exit code (negative: a signal; None: unknown)."""

    id: int
    spawned: asyncio.Future[int]
    exited: asyncio.Future[int | None]
    on_exit: list[Callable[[], None]] = field(default_factory=list)


class ZygoteLink:
    """One zygote at a time, and its children.

    Args:
        module: what the zygote runs.
    """

    def __init__(self, module: ZygoteModule) -> None:
        self._module: ZygoteModule = module
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._children: dict[int, Child] = {}
        self._next_id = 0
        self._ready = asyncio.Event()
        self._restart: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._num_unanswered = 0
        self._is_closing = False
        self._restart_pause_s = _RESTART_PAUSE_S
        self.features: dict[str, object] = {}

    @property
    def is_ready(self) -> bool:
        """Return whether a zygote is warm and listening."""
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """Return the zygote's process id."""
        return self._process.pid if self._process is not None else None

    @property
    def num_children(self) -> int:
        """Return the number of children with a job whose end has not been reported."""
        return len(self._children)

    async def start(self) -> None:
        """Start the zygote, unless that has been done, and wait until it is warm.

        Raises:
            ServiceError: `decoder_gone`, it does not come up.
        """
        if self._is_closing:
            raise _not_up()
        if self._watch is None:
            try:
                self._launch()
            except OSError as error:
                raise _not_up() from error
            self._watch = asyncio.create_task(self._watch_zygote(), name="zygote watchdog")
        await self.wait_ready(_START_S)

    async def wait_ready(self, timeout_s: float | None) -> None:
        """Wait for a warm zygote; raises `decoder_gone` after `timeout_s`."""
        async with bounded_wait(timeout_s, _not_up):
            await self._ready.wait()

    async def spawn(self, kind: str, job: dict[str, Any], fds: list[int]) -> Child:
        """Give a job to a new child.

        Args:
            kind: `clip` or `stills` for `decoder_zygote`, `overlay` for `overlay_zygote`.
            job: JSON values for the child.
            fds: descriptors for the child; the caller keeps and closes its own copies.

        Raises:
            ServiceError: `decoder_gone`.
        """
        for _ in range(_MAX_SPAWN_TRIES):
            await self.wait_ready(_START_S)
            try:
                return await self._try_spawn(kind, job, fds)
            except _ZygoteGoneError:  # another is being started, or memory may come free
                await asyncio.sleep(_SPAWN_PAUSE_S)
        raise ServiceError("decoder_gone", "The decoder process was stopped; try again.", retry_after_s=1.0)

    async def _try_spawn(self, kind: str, job: dict[str, Any], fds: list[int]) -> Child:
        self._next_id += 1
        loop = asyncio.get_running_loop()
        child = Child(self._next_id, loop.create_future(), loop.create_future())
        self._children[child.id] = child
        message = json.dumps({"op": "spawn", "id": child.id, "kind": kind, "job": job}).encode()
        try:
            await self._send(message, fds)
            await asyncio.shield(child.spawned)
        except asyncio.CancelledError:
            self.kill(child)
            raise
        except _ZygoteGoneError:
            self._forget(child, None)
            raise
        return child

    def kill(self, child: Child) -> None:
        """Kill a child if it has not ended; `exited` is set when it has."""
        if child.id in self._children and self._control is not None:
            try:
                self._control.send(json.dumps({"op": "kill", "id": child.id}).encode())
            except BlockingIOError:
                asyncio.get_running_loop().call_later(_RETRY_S, self.kill, child)
            except OSError:  # a dead zygote takes its children with it
                return

    async def aclose(self) -> None:
        """End the zygote and all children."""
        self._is_closing = True
        tasks = [task for task in (self._watch, self._restart) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop()

    def _launch(self) -> None:
        self._process, self._control = start_zygote(self._module)
        self._num_unanswered = 0
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._on_readable)

    async def _watch_zygote(self) -> None:
        """Replace a zygote that does not answer or does not start."""
        while True:
            await asyncio.sleep(_PING_S)
            if self._control is None:
                continue
            limit = _MAX_UNANSWERED if self._ready.is_set() else _START_S / _PING_S
            if self._num_unanswered >= limit:
                logger.error("zygote does not answer", extra={"zygote": self._module})
                self._on_death()
                continue
            self._num_unanswered += 1
            with contextlib.suppress(OSError):  # a full socket counts as silence, too
                self._control.send(_PING)

    async def _send(self, message: bytes, fds: list[int]) -> None:
        while True:
            if self._control is None:
                raise _ZygoteGoneError
            try:
                socket.send_fds(self._control, [message], fds)
                return
            except BlockingIOError:
                await asyncio.sleep(_RETRY_S)
            except OSError:
                raise _ZygoteGoneError from None

    def _on_readable(self) -> None:
        while self._control is not None:
            try:
                data = self._control.recv(MAX_CONTROL_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._on_death()
                return
            self._on_message(json.loads(data))

    def _on_message(self, message: dict[str, Any]) -> None:
        self._num_unanswered = 0
        op = message["op"]
        if op == "ready":
            self.features = message["features"]
            self._restart_pause_s = _RESTART_PAUSE_S
            self._ready.set()
        child = self._children.get(message.get("id", 0))
        if child is None:
            return
        if op == "spawned":
            _settle(child.spawned, message["pid"])
        elif op == "exited":
            self._forget(child, message["code"])
        elif op == "failed":
            self._forget(child, None)

    def _on_death(self) -> None:
        self._drop()
        if not self._is_closing:
            logger.error("zygote died; starting another", extra={"zygote": self._module})
            self._restart = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        """Retry until a zygote starts: the machine may lack memory or descriptors for a while.

        The pause grows until one is warm, so that one that fails in its warm-up is not started again and again.
        """
        while True:
            await asyncio.sleep(self._restart_pause_s)
            self._restart_pause_s = min(2 * self._restart_pause_s, _MAX_RESTART_PAUSE_S)
            try:
                self._launch()
            except OSError as error:
                extra = {"zygote": self._module, "reason": error.strerror}
                logger.error("zygote could not be started", extra=extra)
            else:
                return

    def _drop(self) -> None:
        self._ready.clear()
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._process is not None:
            stop_zygote(self._process)
            self._process = None
        for child in list(self._children.values()):
            self._forget(child, None)

    def _forget(self, child: Child, code: int | None) -> None:
        self._children.pop(child.id, None)
        if not child.spawned.done():
            child.spawned.set_exception(_ZygoteGoneError())
            child.spawned.exception()  # retrieved, even if nobody waits
        _settle(child.exited, code)
        for callback in child.on_exit:
            callback()


def _not_up() -> ServiceError:
    return ServiceError("decoder_gone", "The decoder process is not up; try again.", retry_after_s=1.0)


def _settle(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
