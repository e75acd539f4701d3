"""The process that decoder children are forked from: `python -m service.media.sandbox.zygote FD`.

It holds av and numpy, no thread, no connection of the service and none of its memory. It speaks JSON datagrams over the
socket FD: `spawn` (with the child's descriptors attached) and `kill` come in; `ready`, `spawned` and `exited` go out.
It ends when the socket closes, and its children end with it.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import selectors
import signal
import socket
import sys
from typing import Any

import av

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.media.policy import DecodeJob, MediaPolicy
from service.media.sandbox import jail
from service.media.sandbox.child import run_child
from service.media.sandbox.clip_decode import decode_clip
from service.media.sandbox.source import UploadSource
from service.media.sandbox.stills import decode_jpeg
from service.media.sandbox.warmup import make_warmup_clip, make_warmup_jpeg
from service.media.zygote_wire import MAX_FDS, MAX_MESSAGE_BYTES


class Zygote:
    """Forks children on request and reports their ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pids: dict[int, int] = {}  # pid -> id
        self._has_filter = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)

    def run(self) -> None:
        """Warm up, then serve until the parent closes the socket."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        warm_up()
        self._has_filter = probe_filter()
        gc.collect()
        gc.freeze()
        self._tell(
            op="ready",
            seccomp=self._has_filter,
            ffmpeg=av.ffmpeg_version_info,
            num_threads=len(os.listdir("/proc/self/task")),
        )
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(self._wake_read, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is self._control:
                    if not self._receive():
                        return
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
            self._reap()

    def _receive(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, MAX_FDS)
        except ConnectionResetError:  # the parent closed with our reports unread
            return False
        if not data:
            return False
        message = json.loads(data)
        if message["op"] == "spawn":
            self._spawn(message, fds)
        elif message["op"] == "kill":
            for pid, child_id in self._pids.items():
                if child_id == message["id"]:
                    os.kill(pid, signal.SIGKILL)
        for fd in fds:
            os.close(fd)
        return True

    def _spawn(self, message: dict[str, Any], fds: list[int]) -> None:
        zygote_pid = os.getpid()
        pid = os.fork()
        if pid:
            self._pids[pid] = message["id"]
            self._tell(op="spawned", id=message["id"], pid=pid)
            return
        status = 1
        try:
            jail.die_with_parent(zygote_pid)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            run_child(message["kind"], message["job"], _keep_only(fds), has_filter=self._has_filter)
            status = 0
        finally:
            os._exit(status)

    def _reap(self) -> None:
        while self._pids:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child_id = self._pids.pop(pid, None)
            if child_id is not None:
                self._tell(op="exited", id=child_id, code=os.waitstatus_to_exitcode(status))

    def _tell(self, **message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())


def _keep_only(fds: list[int]) -> list[int]:
    """Close every descriptor but these and the standard three (which lead nowhere); their new numbers are 3, 4, ..."""
    null = os.open(os.devnull, os.O_RDWR)
    high = [os.dup2(fd, 100 + at) for at, fd in enumerate(fds)]
    for standard in range(3):
        os.dup2(null, standard)
    kept = [os.dup2(fd, 3 + at) for at, fd in enumerate(high)]
    os.closerange(3 + len(kept), 1024)
    return kept


class _NoOutbox:
    def clip(self, clip: ClipInfo) -> None:
        """Dropped."""

    def block(self, block: SampleBlock) -> None:
        """Dropped."""

    def progress(self) -> None:
        """Dropped."""


def warm_up() -> None:
    """Decode a small clip and a JPEG: av imports lazily, and nothing can be opened in the jail."""
    logger = logging.getLogger("libav")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    av.logging.set_level(av.logging.ERROR)  # so that exceptions carry FFmpeg's own message for our own tests of it
    data = make_warmup_clip()
    fd = os.memfd_create("warmup")
    try:
        os.write(fd, data)
        job = DecodeJob(fps=10.0, start_s=0.0, end_s=None, frame_height=32, frame_width=32, policy=MediaPolicy())
        source = UploadSource(fd, size_bytes=len(data), is_complete=True, need=lambda _: (len(data), True))
        decode_clip(job, source, _NoOutbox())
    finally:
        os.close(fd)
    decode_jpeg(make_warmup_jpeg(), max_pixels=4096)
    with contextlib.suppress(av.FFmpegError):
        av.open(io.BytesIO(b"\0" * 64), format="mov")


def probe_filter() -> bool:
    """Whether the seccomp filter holds here: a child that asks for a socket must die of it."""
    pid = os.fork()
    if pid == 0:
        if jail.install_filter():
            with contextlib.suppress(OSError):
                socket.socket(socket.AF_UNIX)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS


def main() -> None:
    """Entry point of the process."""
    Zygote(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
