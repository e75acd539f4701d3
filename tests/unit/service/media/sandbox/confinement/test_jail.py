"""The jail, tried from inside: what decoding does not need ends the process or is refused."""

from __future__ import annotations

import ctypes
import faulthandler
import fcntl
import mmap
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable

import pytest
from support.components.jailed import (
    FILTERS,
    LIBC,
    MEMORY_ERROR,
    OS_ERROR,
    WORKED,
    call,
    run_jailed,
    survivors,
)

from service.media.sandbox.confinement import isolation, jail
from service.media.sandbox.confinement.syscalls import MACHINES

AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
F_SETSIG, F_SETOWN_EX, F_NOTIFY, F_SETLEASE = 10, 15, 1026, 1024
FIOASYNC, FIOSETOWN, SIOCSPGRP = 0x5452, 0x8901, 0x8902
SYS_STATX, SYS_NEWFSTATAT, SYS_CLONE3, SYS_DUP, SYS_RECVMSG = 332, 262, 435, 32, 47
X32_BIT = 0x40000000
# uretprobe and uprobe: Linux from 6.14 on asks no filter about them (`__secure_computing` in kernel/seccomp.c), so that
# none can deny them. Outside of a probe the first ends the process and the second fails.
PAST_SECCOMP = {335, 336}
# Numbers behind all that a kernel has today.
FUTURE_CALLS = (600, 1000, 4096, 2**20, 2**30 - 1, 2**31 - 1)
_NUM_CALLS = 600
CALLS_WITH_RULES = {
    number
    for rule in (*jail._CHILD_RULES, *jail._CHILD_WITH_JOB_RULES)
    if (number := MACHINES["x86_64"][1].get(rule.name)) is not None
}

on_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64")


def test_what_decoding_needs_is_allowed() -> None:
    read, write = os.pipe()

    def decode() -> None:
        os.write(write, b"x" * 100)
        assert os.read(read, 100) == b"x" * 100
        bytearray(64 << 20)
        mmap.mmap(-1, 1 << 20).close()
        assert fcntl.fcntl(read, fcntl.F_GETFL) == os.O_RDONLY
        os.getpid()

    assert run_jailed(decode) == WORKED
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    "action",
    [
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        lambda: socket.socket(socket.AF_UNIX),
        lambda: os.kill(os.getppid(), signal.SIGCONT),
        lambda: os.kill(os.getpid(), 0),
        lambda: signal.pthread_kill(threading.get_ident(), signal.SIGCONT),
        lambda: signal.pidfd_send_signal(0, signal.SIGCONT),
        lambda: os.pidfd_open(1),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: os.unlink("/tmp/nothing-of-that-name"),
        lambda: os.mkdir("/tmp/nothing-of-that-name"),
        lambda: os.chdir("/"),
        lambda: os.memfd_create("x"),
        lambda: os.setuid(0),
        lambda: os.dup2(1, 40),
        os.pipe,
        lambda: os.waitpid(-1, os.WNOHANG),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, 5),
        lambda: os.sched_setaffinity(0, {0}),
        os.sync,
    ],
)
def test_what_no_decoder_needs_ends_it(action: Callable[[], object]) -> None:
    assert run_jailed(action) == -signal.SIGSYS


@pytest.mark.parametrize(
    ("command", "value"),
    [
        (fcntl.F_SETOWN, 1),
        (F_SETOWN_EX, 0),
        (F_SETSIG, signal.SIGKILL),
        (fcntl.F_SETFL, os.O_ASYNC),
        (fcntl.F_SETFL, 0),
        (F_SETLEASE, fcntl.F_RDLCK),
        (F_NOTIFY, 1),
        (fcntl.F_DUPFD, 10),
        (fcntl.F_SETFD, 0),
        (fcntl.F_GETLK, 0),
    ],
)
def test_descriptors_cannot_be_made_to_signal_anyone(command: int, value: int) -> None:
    assert run_jailed(lambda: LIBC.fcntl(0, command, value)) == -signal.SIGSYS


def test_a_command_is_told_by_the_bits_that_the_kernel_reads() -> None:
    disguised = ctypes.c_ulong(1 << 32 | fcntl.F_SETOWN)
    assert run_jailed(lambda: LIBC.syscall(72, 0, disguised, 1)) == -signal.SIGSYS


@pytest.mark.parametrize("request_code", [FIOASYNC, FIOSETOWN, SIOCSPGRP, 0x5413])
def test_no_ioctl_works(request_code: int) -> None:
    assert run_jailed(lambda: fcntl.ioctl(0, request_code, b"\1\0\0\0")) == OS_ERROR


@pytest.mark.parametrize(
    "action",
    [
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.stat("/etc/passwd"),
        lambda: os.lstat("/etc/passwd"),
        lambda: os.stat("."),
        lambda: os.readlink("/proc/self/exe"),
        lambda: os.listdir("/"),
    ],
)
def test_files_cannot_be_looked_up_by_name(action: Callable[[], object]) -> None:
    assert run_jailed(action) == OS_ERROR


def test_whether_a_file_exists_is_not_told() -> None:
    def ask() -> None:
        if not os.access("/etc/passwd", os.R_OK):
            raise OSError("not told")

    assert run_jailed(ask) == OS_ERROR


@on_x86
@pytest.mark.parametrize("path", [b"/etc/passwd", b""])
def test_a_flag_for_an_empty_path_opens_no_way_around(path: bytes) -> None:
    """The kernel takes AT_EMPTY_PATH with any path, and a filter cannot read the path."""
    buffer = ctypes.create_string_buffer(512)
    assert run_jailed(lambda: call(SYS_NEWFSTATAT, AT_FDCWD, path, buffer, AT_EMPTY_PATH)) == OS_ERROR
    assert run_jailed(lambda: call(SYS_STATX, AT_FDCWD, path, AT_EMPTY_PATH, 0xFFF, buffer)) == OS_ERROR


@on_x86
def test_a_descriptor_can_be_looked_at() -> None:
    buffer = ctypes.create_string_buffer(512)
    assert run_jailed(lambda: call(5, 0, buffer)) == WORKED


@pytest.mark.parametrize("action", [os.fork, lambda: threading.Thread(target=int).start()])
def test_neither_processes_nor_threads_can_be_started(action: Callable[[], object]) -> None:
    assert run_jailed(action) in (OS_ERROR, MEMORY_ERROR)


@on_x86
def test_every_other_call_of_the_kernel_ends_the_child() -> None:
    """io_uring, ptrace, process_vm_readv, bpf, keyctl, userfaultfd, memfd, namespaces and whatever a kernel adds."""
    assert survivors(set(range(_NUM_CALLS)) - CALLS_WITH_RULES - PAST_SECCOMP) == {}
    assert run_jailed(lambda: call(X32_BIT | 39)) == -signal.SIGSYS  # getpid by another name


@on_x86
@pytest.mark.parametrize("number", FUTURE_CALLS)
def test_numbers_that_no_kernel_has_end_the_child(number: int) -> None:
    """The filters are lists of what is allowed: what they do not name is denied."""
    assert run_jailed(lambda: call(number, 0, 0, 0, 0, 0, 0)) == -signal.SIGSYS
    assert in_zygotes_filter(lambda: call(number, 0, 0, 0, 0, 0, 0)) == -signal.SIGSYS


@on_x86
@pytest.mark.parametrize("number", sorted(PAST_SECCOMP))
def test_what_passes_every_filter_does_nothing(number: int) -> None:
    for run in (run_jailed, in_zygotes_filter):
        assert run(lambda: call(number, 0, 0, 0, 0, 0, 0)) in (-signal.SIGSYS, -signal.SIGILL, OS_ERROR)


@on_x86
def test_the_newer_clone_is_not_there() -> None:
    assert run_jailed(lambda: call(SYS_CLONE3, ctypes.create_string_buffer(88), 88)) == OS_ERROR


def test_a_kernel_without_filters_still_starts_no_thread() -> None:
    """RLIMIT_NPROC alone. Root is exempt from it, which is one reason why children are not root."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                isolation.become_user(65_534)
            jail.limit_resources()
            threading.Thread(target=int).start()
        except RuntimeError:
            code = MEMORY_ERROR
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == MEMORY_ERROR


def test_memory_cannot_become_executable() -> None:
    assert run_jailed(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)) == OS_ERROR


def test_limits_can_be_set_until_the_upload_is_met_and_never_for_others() -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (100, 100))

    assert run_jailed(lower, has_job=False) == WORKED
    assert run_jailed(lower) == OS_ERROR
    assert run_jailed(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU), has_job=False) == -signal.SIGSYS


def test_descriptors_arrive_with_the_job_only() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"job"], [0])
        assert run_jailed(lambda: socket.recv_fds(theirs, 10, 1), has_job=False) == WORKED
        assert run_jailed(lambda: socket.recv_fds(theirs, 10, 1)) == -signal.SIGSYS


@on_x86
def test_no_descriptor_arrives_after_the_job_under_another_number() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [b"more"], [0])

        def receive() -> None:
            os.close(0)
            call(SYS_DUP, theirs.fileno())  # takes the lowest number
            call(SYS_RECVMSG, 0, ctypes.create_string_buffer(64), 0)

        assert run_jailed(receive, has_job=False) == WORKED
        assert run_jailed(receive) == -signal.SIGSYS


def test_memory_is_bounded() -> None:
    assert run_jailed(lambda: bytearray(2 << 30), memory_bytes=1 << 30) == MEMORY_ERROR


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


def in_zygotes_filter(action: Callable[[], object]) -> int:
    """Fork, install the zygote's filter, act; the exit code as of `run_jailed`."""
    pid = os.fork()
    if pid == 0:
        code = 1
        faulthandler.disable()
        try:
            assert jail.install(FILTERS.zygote)
            action()
            code = WORKED
        except OSError:
            code = OS_ERROR
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_zygote_can_fork_and_end_children() -> None:
    def fork_and_kill() -> None:
        pid = os.fork()
        if pid == 0:
            while True:
                pass
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL

    assert in_zygotes_filter(fork_and_kill) == WORKED


@pytest.mark.parametrize(
    ("action", "code"),
    [
        (lambda: socket.socket(socket.AF_INET), -signal.SIGSYS),
        (lambda: os.execv("/bin/true", ["true"]), -signal.SIGSYS),
        (lambda: os.kill(os.getppid(), signal.SIGSTOP), -signal.SIGSYS),
        (lambda: LIBC.unshare(0x10000000), -signal.SIGSYS),
        (lambda: LIBC.fcntl(0, fcntl.F_SETOWN, 1), -signal.SIGSYS),
        (lambda: os.open("/etc/passwd", os.O_RDONLY), OS_ERROR),
        (lambda: os.stat("/etc/passwd"), OS_ERROR),
    ],
)
def test_a_zygote_can_do_little_else(action: Callable[[], object], code: int) -> None:
    assert in_zygotes_filter(action) == code
