"""The jail, tried from inside: what is not needed for decoding ends the process or is refused."""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
from collections.abc import Callable

import pytest

from service.media.sandbox import jail


def run_jailed(action: Callable[[], object], *, limits: bool = False) -> int:
    """Fork, lock, act; the exit code: 0 the action worked, 7 it raised OSError, 8 MemoryError, negative: a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if limits:
                jail.limit_resources(memory_bytes=1 << 30)
            if not jail.install_filter():
                os._exit(9)
            action()
            code = 0
        except OSError:
            code = 7
        except MemoryError:
            code = 8
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_thinking_and_threads_are_allowed() -> None:
    def think() -> None:
        thread = threading.Thread(target=lambda: sum(range(1000)))
        thread.start()
        thread.join()

    assert run_jailed(think) == 0


@pytest.mark.parametrize(
    "action",
    [
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: os.kill(os.getppid(), signal.SIGCONT),
        os.fork,
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.unlink("/tmp/nothing-of-that-name"),
        lambda: os.mkdir("/tmp/nothing-of-that-name"),
        lambda: os.memfd_create("x"),
        lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        os.pipe,
    ],
)
def test_what_no_decoder_needs_ends_it(action: Callable[[], object]) -> None:
    assert run_jailed(action) == -signal.SIGSYS


def test_files_cannot_be_opened() -> None:
    assert run_jailed(lambda: os.open("/etc/passwd", os.O_RDONLY)) == 7


def test_memory_is_bounded() -> None:
    assert run_jailed(lambda: bytearray(2 << 30), limits=True) == 8


def test_cpu_time_is_bounded() -> None:
    pid = os.fork()
    if pid == 0:
        jail.limit_cpu(0.0)
        while True:
            pass
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGXCPU


def test_a_child_does_not_outlive_its_parent() -> None:
    read, write = os.pipe()
    middle = os.fork()
    if middle == 0:
        parent = os.getpid()
        if os.fork() == 0:
            jail.die_with_parent(parent)
            os.write(write, b"up")
            signal.pause()
        os.read(read, 2)
        os._exit(0)
    os.close(write)
    os.waitpid(middle, 0)
    assert os.read(read, 1) == b""  # the pipe closes when the grandchild, which held its other end, is gone
    os.close(read)
