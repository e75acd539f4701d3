"""What a decoder child may do: resource limits, and a seccomp filter that leaves memory, two descriptors and a clock.

The filter is classic BPF, built here and installed with prctl(2) through ctypes: it needs no library and no privilege.
System calls that are not listed end the process (SIGSYS); opening files by name and a few questions that C libraries
ask are answered with an error instead, so that a late import fails as an exception. No cost was measurable.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_RET_KILL_PROCESS, _RET_ERRNO, _RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_LD_W_ABS, _JMP_JEQ_K, _JMP_JGE_K, _JMP_JSET_K, _RET_K = 0x20, 0x15, 0x35, 0x45, 0x06
_AT_NUMBER, _AT_ARCHITECTURE, _AT_FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x10000
_X32_BIT = 0x40000000

_ALLOWED = [
    "read",
    "write",
    "close",
    "fstat",
    "lseek",
    "mmap",
    "munmap",
    "mprotect",
    "brk",
    "madvise",
    "mremap",
    "futex",
    "clock_gettime",
    "clock_nanosleep",
    "exit",
    "exit_group",
    "rt_sigreturn",
    "rt_sigprocmask",
    "rt_sigaction",
    "sigaltstack",
    "getrandom",
    "sched_getaffinity",
    "pread64",
    "getpid",
    "gettid",
    "sched_yield",
    "newfstatat",
    "getrusage",
    "dup",
    "fcntl",
    "set_robust_list",
    "rseq",
    "sysinfo",
    "readv",
    "writev",
]
_REFUSED = {
    **dict.fromkeys(("openat", "open", "readlink", "readlinkat", "access", "faccessat", "stat"), errno.EACCES),
    "ioctl": errno.ENOTTY,
    "prctl": errno.EPERM,  # libav names its threads
    "clone3": errno.ENOSYS,  # the C library then takes clone, whose flags a filter can read
}
_X86_64 = {
    "read": 0,
    "write": 1,
    "open": 2,
    "close": 3,
    "stat": 4,
    "fstat": 5,
    "lseek": 8,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "ioctl": 16,
    "pread64": 17,
    "readv": 19,
    "writev": 20,
    "access": 21,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "dup": 32,
    "getpid": 39,
    "clone": 56,
    "exit": 60,
    "fcntl": 72,
    "readlink": 89,
    "getrusage": 98,
    "sysinfo": 99,
    "sigaltstack": 131,
    "prctl": 157,
    "gettid": 186,
    "futex": 202,
    "sched_getaffinity": 204,
    "clock_gettime": 228,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "openat": 257,
    "newfstatat": 262,
    "readlinkat": 267,
    "faccessat": 269,
    "set_robust_list": 273,
    "getrandom": 318,
    "rseq": 334,
    "clone3": 435,
}
_AARCH64 = {
    "dup": 23,
    "fcntl": 25,
    "ioctl": 29,
    "faccessat": 48,
    "openat": 56,
    "close": 57,
    "lseek": 62,
    "read": 63,
    "write": 64,
    "readv": 65,
    "writev": 66,
    "pread64": 67,
    "readlinkat": 78,
    "newfstatat": 79,
    "fstat": 80,
    "exit": 93,
    "exit_group": 94,
    "futex": 98,
    "set_robust_list": 99,
    "clock_gettime": 113,
    "clock_nanosleep": 115,
    "sched_getaffinity": 123,
    "sched_yield": 124,
    "sigaltstack": 132,
    "rt_sigaction": 134,
    "rt_sigprocmask": 135,
    "rt_sigreturn": 139,
    "getrusage": 165,
    "prctl": 167,
    "getpid": 172,
    "gettid": 178,
    "sysinfo": 179,
    "brk": 214,
    "munmap": 215,
    "mremap": 216,
    "clone": 220,
    "mmap": 222,
    "mprotect": 226,
    "madvise": 233,
    "getrandom": 278,
    "rseq": 293,
    "clone3": 435,
}
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}
"""AUDIT_ARCH constants and system call numbers of the Linux user ABI (linux/audit.h, asm/unistd.h)."""


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel end this process when its parent ends; ends it now if that has happened already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def limit_resources(*, memory_bytes: int) -> None:
    """Bound address space, descriptors and file writes of this process; no core files."""
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, 64)
    _lower(resource.RLIMIT_CORE, 0)


def limit_cpu(budget_s: float) -> None:
    """End this process (SIGXCPU) once it has used this much more CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + budget_s) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def install_filter() -> bool:
    """Install the seccomp filter for good; False where this kernel or machine has none."""
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        return False
    architecture, numbers = _MACHINES[platform.machine()]
    code = _program(architecture, numbers)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    head = ctypes.create_string_buffer(program, len(program))
    if not _prctl(_PR_SET_NO_NEW_PRIVS, 1):
        return False
    return _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(head))


def _program(architecture: int, numbers: dict[str, int]) -> bytes:
    """The filter: each instruction is (code, jump if true, jump if false, constant), jumps relative."""
    lines = [
        (_LD_W_ABS, 0, 0, _AT_ARCHITECTURE),
        (_JMP_JEQ_K, 1, 0, architecture),
        (_RET_K, 0, 0, _RET_KILL_PROCESS),
        (_LD_W_ABS, 0, 0, _AT_NUMBER),
        (_JMP_JGE_K, 0, 1, _X32_BIT),
        (_RET_K, 0, 0, _RET_KILL_PROCESS),
    ]
    for name in _ALLOWED:
        lines += [(_JMP_JEQ_K, 0, 1, numbers[name]), (_RET_K, 0, 0, _RET_ALLOW)]
    for name, code in _REFUSED.items():
        if name in numbers:
            lines += [(_JMP_JEQ_K, 0, 1, numbers[name]), (_RET_K, 0, 0, _RET_ERRNO | code)]
    lines += [
        (_JMP_JEQ_K, 0, 3, numbers["clone"]),
        (_LD_W_ABS, 0, 0, _AT_FIRST_ARGUMENT),
        (_JMP_JSET_K, 0, 1, _CLONE_THREAD),
        (_RET_K, 0, 0, _RET_ALLOW),
        (_RET_K, 0, 0, _RET_KILL_PROCESS),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _prctl(option: int, *arguments: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return int(libc.prctl(option, *padded)) == 0
