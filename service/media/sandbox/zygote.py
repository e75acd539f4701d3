"""A process that jailed children are forked from: decoders (`decoder_zygote.py`) or drawers (`overlay_zygote.py`).

It holds the libraries of its children's work, one thread, no connection and none of the memory of the service. It
speaks JSON datagrams over the socket FD: `spawn` (with the child's descriptors attached), `kill` and `ping` come in;
`ready`, `spawned`, `failed`, `exited` and `pong` go out. It ends when the socket closes, and its children with it.

Children are forked ahead: a spare has its identity, limits and filter, and waits for its job. Each child does one job.
Where the work has a rehearsal, the next spare does it while no child has a job, so that its pages are copied.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import av

from service.media.framing import MAX_CONTROL_BYTES, MAX_JOB_FDS
from service.media.sandbox.child import Confinement
from service.media.sandbox.confinement import isolation, jail
from service.media.sandbox.confinement.isolation import OomScore, Walls
from service.media.sandbox.confinement.jail import Filters

_MAX_SPAWN_TRIES = 3
# Of one service.
_NUM_ZYGOTES = 2
# Seconds to pause after a fork that failed for lack of memory or processes.
_FORK_RETRY_S = 0.2
_MAX_FD = 1 << 20
# Seconds without a child at work after which a spare rehearses. That takes more CPU than it saves later, so that under
# load, when spares are soon used up, none does.
_REHEARSE_AFTER_S = 0.1
_REHEARSE = b"rehearse"
_HOLDER_SLEEP_S = 3600.0
# Children get about a third of the processor time of the process that answers requests when both want it (a weight of
# 335 to 1024, sched(7)). With equal weights a refusal waited behind every decoder that was running.
_NICENESS = 5


@dataclass(slots=True)
class _Spare:
    """A child without a job, and the socket over which its job will be sent."""

    pid: int
    orders: socket.socket
    has_rehearsed: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What the children of one zygote do.

    Attributes:
        warm_up: called before the first fork, because the jail allows no opening of files.
        run: does one job in a child, given its kind, its fields, its descriptors and what is left to confine.
        num_spares: children that are forked ahead, at least 1.
        place: 0 or 1, another one for each zygote of a service, so that their children never share a user.
        rehearse: optional work of a spare that touches what a job would.
    """

    warm_up: Callable[[], None]
    run: Callable[[str, dict[str, Any], list[int], Confinement], None]
    num_spares: int
    place: int
    rehearse: Callable[[], None] | None = None


class Zygote:
    """Forks children on request and reports their ends.

    Args:
        control: socket to the service.
        work: of the children.
    """

    def __init__(self, control: socket.socket, work: Work) -> None:
        self._control = control
        self._work = work
        self._pid = os.getpid()
        self._ids: dict[int, int] = {}  # pid -> id of children with a job
        self._spares: deque[_Spare] = deque()
        self._num_forked = 0
        self._filters = Filters()
        self._walls = Walls()
        self._confinement = Confinement()
        self._oom_score = OomScore()
        self._holder_pid = 0
        self._null_fd = os.open(os.devnull, os.O_RDWR)
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        self._refill_pause_s = 0.0
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Warm up, lock down, then serve until the parent closes the socket."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._work.warm_up()
        os.nice(_NICENESS)
        self._selector.register(self._control, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        gc.collect()  # before the first fork: it writes to every page that holds objects
        gc.freeze()
        features = self._lock_down()
        gc.enable()
        for _ in range(self._work.num_spares):
            self._fork_spare()
        self._tell(op="ready", features=features)
        while self._serve_once():
            pass

    def _lock_down(self) -> dict[str, object]:
        """Give up privileges that the zygote does not need, and return the active protections for `/version`."""
        num_threads = len(os.listdir("/proc/self/task"))
        has_filter = probe_filter(self._filters)
        base_bytes = jail.address_space_bytes()
        self._walls = isolation.raise_walls()
        self._oom_score.lower()
        if self._walls.has_pid_namespace:
            self._holder_pid = self._fork_holder()
        has_own_filter = has_filter and jail.install(self._filters.zygote)
        self._confinement = Confinement(
            base_bytes=base_bytes, filter_with_job=self._filters.child_with_job if has_filter else None
        )
        return {
            "seccomp": has_filter,
            "zygote_seccomp": has_own_filter,
            **self._walls.features(),
            "ffmpeg": av.ffmpeg_version_info,
            "num_threads": num_threads,
        }

    def _serve_once(self) -> bool:
        """Handle received messages; if there are none, fork a spare or let one rehearse.

        Return False once the parent has closed the socket.
        """
        events = self._selector.select(self._pause_s())
        for key, _ in events:
            if key.fileobj is self._control:
                if not self._receive():
                    return False
            else:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
        self._reap()
        if not events and len(self._spares) < self._work.num_spares:
            self._refill_pause_s = 0.0 if self._fork_spare() else _FORK_RETRY_S
        elif not events:
            self._let_rehearse()
        return True

    def _pause_s(self) -> float | None:
        """Seconds until there is something to do without a message; None if there is nothing."""
        if len(self._spares) < self._work.num_spares:
            return self._refill_pause_s
        may_rehearse = self._work.rehearse is not None and not (self._ids or self._spares[0].has_rehearsed)
        return _REHEARSE_AFTER_S if may_rehearse else None

    def _let_rehearse(self) -> None:
        """Send the next spare the order to rehearse. Only this one: it then takes 9 MB more memory."""
        spare = self._spares[0]
        spare.has_rehearsed = True
        with contextlib.suppress(OSError):  # a spare that has died is found by `_reap`
            spare.orders.send(_REHEARSE)

    def _receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_CONTROL_BYTES, MAX_JOB_FDS)
        except ConnectionResetError:  # the parent closed without reading our reports
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "spawn":
            self._spawn(message["id"], data, fds)
        elif message["op"] == "kill":
            for pid, child_id in self._ids.items():
                if child_id == message["id"]:
                    os.kill(pid, signal.SIGKILL)
        elif message["op"] == "ping":
            self._tell(op="pong")
        for fd in fds:
            os.close(fd)
        return True

    def _spawn(self, child_id: int, message: bytes, fds: list[int]) -> None:
        """Give the job to a spare. A spare that has died is skipped."""
        for _ in range(_MAX_SPAWN_TRIES):
            try:
                if not self._spares:
                    self._fork_spare()
                spare = self._spares.popleft()
                with spare.orders:
                    socket.send_fds(spare.orders, [message], fds)
            except (OSError, IndexError):
                self._reap()
                continue
            self._ids[spare.pid] = child_id
            self._tell(op="spawned", id=child_id, pid=spare.pid)
            return
        self._tell(op="failed", id=child_id)

    def _fork_spare(self) -> bool:
        """Fork a child that waits for its job. Return False if the kernel has no memory or processes left."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._num_forked += 1
        self._oom_score.raise_for_child()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return False
        finally:
            self._oom_score.lower()
        if pid == 0:
            self._live_as_child(theirs)
        theirs.close()
        self._spares.append(_Spare(pid, ours))
        return True

    def _live_as_child(self, orders: socket.socket) -> NoReturn:
        """Become another user, lock this process in, wait for the job and run it."""
        status = 1
        try:
            if self._walls.uids is not None:
                uids = self._walls.uids[self._work.place :: _NUM_ZYGOTES]
                isolation.become_user(uids[self._num_forked % len(uids)])
            jail.die_with_parent(0 if self._walls.has_pid_namespace else self._pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            orders = _keep_only(orders, null_fd=self._null_fd)
            jail.limit_resources()
            if self._confinement.filter_with_job is not None and not jail.install(self._filters.child):
                os._exit(1)
            while True:
                data, fds, _, _ = socket.recv_fds(orders, MAX_CONTROL_BYTES, MAX_JOB_FDS)
                if data != _REHEARSE:
                    break
                if self._work.rehearse is not None:
                    with contextlib.suppress(Exception):
                        self._work.rehearse()
            orders.close()
            if data:  # None: the zygote has ended
                message = json.loads(data)
                self._work.run(message["kind"], message["job"], fds, self._confinement)
            status = 0
        finally:
            os._exit(status)

    def _fork_holder(self) -> int:
        """Fork the first process of the children's PID namespace, which lasts as long as this process."""
        pid = os.fork()
        if pid:
            return pid
        try:
            jail.die_with_parent(0)
            os.closerange(0, _MAX_FD)
            jail.limit_resources()
            jail.install(self._filters.child)
            while True:
                time.sleep(_HOLDER_SLEEP_S)
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._holder_pid:
                os._exit(1)  # no child can be forked any more; the service starts another zygote
            child_id = self._ids.pop(pid, None)
            if child_id is not None:
                self._tell(op="exited", id=child_id, code=os.waitstatus_to_exitcode(status))
            else:
                self._drop_spare(pid)

    def _drop_spare(self, pid: int) -> None:
        for spare in [spare for spare in self._spares if spare.pid == pid]:
            self._spares.remove(spare)
            spare.orders.close()

    def _tell(self, **message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())


def _keep_only(kept: socket.socket, *, null_fd: int) -> socket.socket:
    """Close every descriptor except this socket, which becomes number 3. The standard three lead to /dev/null."""
    for standard in range(3):
        os.dup2(null_fd, standard)
    fd = kept.detach()
    if fd != 3:
        os.dup2(fd, 3)
    os.closerange(4, _MAX_FD)
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=3)


def probe_filter(filters: Filters) -> bool:
    """Return whether the seccomp filter works here: a child that opens a socket must be killed by it."""
    pid = os.fork()
    if pid == 0:
        if jail.install(filters.child):
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_UNIX)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS


def run_zygote(work: Work) -> NoReturn:
    """Run the process. It ends without the interpreter's clean-up, which the filter would forbid."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=int(sys.argv[1]))
    Zygote(control, work).run()
    os._exit(0)
