"""System call filters and resource limits of a decoder child and its zygote.

The child's filter allows memory, its open descriptors and a clock. It is installed before the child reads a byte of
an upload, and narrowed once the child has its job and its limits. Calls that are not listed end the process (SIGSYS).
Calls that libraries try but do not need return an error: opening and looking up files by name, starting threads,
counting CPUs (libav then assumes one and starts no threads).
"""

from __future__ import annotations

import errno
import os
import resource
import signal

from service.media.sandbox.confinement import seccomp
from service.media.sandbox.confinement.seccomp import Rule, allow, refuse

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_PROT_EXEC = 4
_F_GETFD, _F_GETFL = 1, 3
_CLONE_THREAD = 0x10000
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h).
_CLONE_NEW = 0x7E020000
_MAX_OPEN_FILES = 64
_NO_DESCRIPTOR = 0xFFFFFFFF

# Commands of fcntl that set an owner and a signal (F_SETOWN, F_SETSIG, O_ASYNC by F_SETFL) would let a child signal
# processes of its user; only reading flags is left. All of ioctl is refused (FIOSETOWN, FIOASYNC do the same).
# `newfstatat` and `statx` take a path that a filter cannot read, even if a flag says that it is empty. fstat(2), by
# descriptor alone, is the only way to look at a file. Memory cannot become executable.
_COMPUTING = [
    *allow("read", "write", "readv", "writev", "pread64", "lseek", "close", "dup", "fstat"),
    *allow("munmap", "brk", "madvise", "mremap", "futex", "clock_gettime", "clock_nanosleep", "sched_yield"),
    *allow("rt_sigreturn", "rt_sigprocmask", "rt_sigaction", "sigaltstack", "getrandom", "getpid", "gettid"),
    *allow("exit", "exit_group", "getrusage", "set_robust_list", "rseq", "set_tid_address"),
    Rule("mmap", argument=2, forbidden_bits=_PROT_EXEC, refusal=errno.EACCES),
    Rule("mprotect", argument=2, forbidden_bits=_PROT_EXEC, refusal=errno.EACCES),
    Rule("fcntl", argument=1, values=(_F_GETFD, _F_GETFL)),
    *refuse(errno.EACCES, "open", "openat", "openat2", "readlink", "readlinkat", "access", "faccessat", "faccessat2"),
    *refuse(errno.EACCES, "stat", "lstat", "newfstatat", "statx"),
    *refuse(errno.ENOTTY, "ioctl"),
]
_CHILD_RULES = [
    *_COMPUTING,
    *refuse(errno.EPERM, "sched_getaffinity"),
    *refuse(errno.EAGAIN, "clone"),
    *refuse(errno.ENOSYS, "clone3"),  # the C library then tries clone
    *allow("recvmsg"),  # the job and its descriptors
    Rule("prlimit64", argument=0, values=(0,)),
    Rule("prctl", argument=0, values=(_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP), refusal=errno.EPERM),
]
# A child can `close` 0 and `dup` its socket there, so that no number of a descriptor is harmless but -1, which is none.
_CHILD_WITH_JOB_RULES = [Rule("recvmsg", values=(_NO_DESCRIPTOR,)), *refuse(errno.EPERM, "prlimit64", "prctl")]
# Calls of a zygote beside computing: fork, reap and kill children, give them their identity, limits and jobs.
_ZYGOTE_RULES = [
    *_COMPUTING,
    *allow("recvmsg", "sendmsg", "sendto", "socketpair", "getsockname", "getsockopt", "wait4"),
    *allow("epoll_wait", "epoll_pwait", "epoll_ctl"),
    *allow("dup2", "dup3", "close_range", "getppid", "setgroups", "setresgid", "setresuid", "sched_getaffinity"),
    *refuse(errno.ENOSYS, "clone3"),
    Rule("clone", argument=0, forbidden_bits=_CLONE_NEW | _CLONE_THREAD, refusal=errno.EPERM),
    Rule("kill", argument=1, values=(signal.SIGKILL,)),
    Rule("prlimit64", argument=0, values=(0,)),
    Rule(
        "prctl",
        argument=0,
        values=(_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP),
        refusal=errno.EPERM,
    ),
]


class Filters:
    """The filters of this machine, assembled once, so that a child only has to install them.

    Attributes:
        zygote: for the zygote; children inherit it.
        child: for a child that waits for its job.
        child_with_job: narrows `child`; for the rest of the child's life.
    """

    def __init__(self) -> None:
        self.zygote = seccomp.assemble(_ZYGOTE_RULES)
        self.child = seccomp.assemble(_CHILD_RULES)
        self.child_with_job = seccomp.assemble(_CHILD_WITH_JOB_RULES, default_allow=True)


def install(program: bytes | None) -> bool:
    """Install a filter for good; False if this kernel or machine has none."""
    return program is not None and seccomp.install(program)


def die_with_parent(parent_pid: int) -> None:
    """Make the kernel end this process when its parent ends; end it now if the parent has already ended.

    Args:
        parent_pid: as this process sees it: 0 for a parent outside of this process's PID namespace.
    """
    seccomp.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def limit_resources() -> None:
    """Limit descriptors and file writes of this process; no core files, no processes or threads."""
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NPROC, 0)


def limit_memory(address_space_bytes: int) -> None:
    """Limit the address space of this process: allocations beyond it fail with MemoryError or ENOMEM."""
    _lower(resource.RLIMIT_AS, address_space_bytes)


def limit_cpu(budget_s: float) -> None:
    """End this process (SIGXCPU) after this many more seconds of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + budget_s) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def address_space_bytes() -> int:
    """Return the address space that this process has mapped (VmSize)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))
