"""The parent's end of the zygote: starts it, asks it for children, learns of their ends, starts it again if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.domain.errors import ServiceError
from service.media.zygote_wire import MAX_MESSAGE_BYTES

_logger = logging.getLogger(__name__)

_START_S = 60.0
_RESTART_PAUSE_S = 0.2
_MAX_RESTART_PAUSE_S = 5.0
_RETRY_S = 0.005
_MAX_SPAWN_TRIES = 3
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The zygote must hold no second thread when it forks."""
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
"""No secret of the service reaches the process tree that touches uploads."""


class _ZygoteGoneError(Exception):
    """The zygote died before it answered."""


@dataclass(eq=False, slots=True)
class Child:
    """A forked child: its id, and futures of its pid and of its exit code (negative: signal; None: nobody saw)."""

    id: int
    spawned: asyncio.Future[int]
    exited: asyncio.Future[int | None]
    on_exit: list[Callable[[], None]] = field(default_factory=list)


class ZygoteLink:
    """One zygote at a time, and its children."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._children: dict[int, Child] = {}
        self._next_id = 0
        self._ready = asyncio.Event()
        self._restart: asyncio.Task[None] | None = None
        self._is_closing = False
        self.features: dict[str, object] = {}

    @property
    def is_ready(self) -> bool:
        """Whether a zygote is warm and listening."""
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """The zygote's process id."""
        return self._process.pid if self._process is not None else None

    @property
    def num_children(self) -> int:
        """Children whose end has not been seen."""
        return len(self._children)

    async def start(self) -> None:
        """Start the zygote and wait until it is warm.

        Raises:
            ServiceError: `decoder_gone`, it does not come up.
        """
        self._launch()
        await self.wait_ready(_START_S)

    async def wait_ready(self, timeout_s: float | None) -> None:
        """Wait for a warm zygote; raises `decoder_gone` after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        except TimeoutError:
            raise ServiceError("decoder_gone", "The decoder process is not up; try again.", retry_after_s=1.0) from None

    async def spawn(self, kind: str, job: dict[str, Any], fds: list[int]) -> Child:
        """Fork a child.

        Args:
            kind: what it is to do.
            job: JSON values for it.
            fds: descriptors for it; the caller keeps (and closes) its own copies.

        Raises:
            ServiceError: `decoder_gone`.
        """
        for _ in range(_MAX_SPAWN_TRIES):
            await self.wait_ready(_START_S)
            with contextlib.suppress(_ZygoteGoneError):  # it died just now; another comes up
                return await self._try_spawn(kind, job, fds)
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
        """End a child now, if it has not ended (its `exited` tells when)."""
        if child.id in self._children and self._control is not None:
            message = json.dumps({"op": "kill", "id": child.id}).encode()
            with contextlib.suppress(OSError):  # a dead zygote takes its children with it
                self._control.send(message)

    async def aclose(self) -> None:
        """End the zygote and all children."""
        self._is_closing = True
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        self._drop()

    def _launch(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _THREADS
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "service.media.sandbox.zygote", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    pass_fds=(theirs.fileno(),),
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_readable)

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
                data = self._control.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._on_death()
                return
            self._on_message(json.loads(data))

    def _on_message(self, message: dict[str, Any]) -> None:
        op = message.pop("op")
        if op == "ready":
            self.features = message
            self._ready.set()
            return
        child = self._children.get(message["id"])
        if child is None:
            return
        if op == "spawned":
            _settle(child.spawned, message["pid"])
        elif op == "exited":
            self._forget(child, message["code"])

    def _on_death(self) -> None:
        self._drop()
        if not self._is_closing:
            _logger.error("decoder zygote died; starting another")
            self._restart = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        """Launch until it works: a machine out of memory or descriptors now would else never decode again."""
        pause_s = _RESTART_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                self._launch()
            except OSError as error:
                _logger.error("decoder zygote could not be started", extra={"reason": error.strerror})
                pause_s = min(2 * pause_s, _MAX_RESTART_PAUSE_S)
            else:
                return

    def _drop(self) -> None:
        self._ready.clear()
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for child in list(self._children.values()):
            self._forget(child, None)

    def _forget(self, child: Child, code: int | None) -> None:
        self._children.pop(child.id, None)
        if not child.spawned.done():
            child.spawned.set_exception(_ZygoteGoneError())
            child.spawned.exception()  # seen, even where nobody waits any more
        _settle(child.exited, code)
        for callback in child.on_exit:
            callback()


def _settle(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
