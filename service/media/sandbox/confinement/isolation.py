"""Walls around the zygote and its children: another user, namespaces, an empty root, no privileges.

A service that starts as root gives each child a user id of its own. Without root, a user namespace gives the right to
create the other namespaces, if the kernel allows it. An unavailable wall is skipped and reported as missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from service.media.sandbox.confinement import seccomp

_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522
_CAP_KILL, _CAP_SETGID, _CAP_SETUID = 5, 6, 7
# First ids and numbers of ids of the ranges tried, most remote first: in the initial namespace nobody owns ids near
# 2^31; a container may map 65 536 ids only, of which those above 61 184 are left for transient users (systemd).
_UID_RANGES = ((2_100_000_000, 65_536), (61_184, 4_096))
_OOM_ZYGOTE, _OOM_CHILD = 500, 1000

_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Walls:
    """Walls between children and the service.

    Attributes:
        uids: user ids for children, a different one for each; None keeps the service's.
        has_user_namespace, has_pid_namespace, has_network_namespace: new ones, without other processes and networks.
        has_empty_root: the root directory is empty and deleted.
    """

    uids: range | None = None
    has_user_namespace: bool = False
    has_pid_namespace: bool = False
    has_network_namespace: bool = False
    has_empty_root: bool = False

    def features(self) -> dict[str, bool]:
        """Return the walls by name, for `/version`."""
        return {
            "own_user": self.uids is not None,
            "user_namespace": self.has_user_namespace,
            "pid_namespace": self.has_pid_namespace,
            "network_namespace": self.has_network_namespace,
            "empty_root": self.has_empty_root,
        }


def raise_walls() -> Walls:
    """Separate this process (of one thread) and its future children from the service, as far as the kernel allows.

    Children forked later run in the new PID namespace; this process stays in the old one. The first fork must be a
    process that lives as long as this one: the namespace ends with it.
    """
    uids = _find_uids()
    has_user_namespace = os.geteuid() != 0 and _enter_user_namespace()
    has_pid_namespace = _unshare(_CLONE_NEWPID)
    has_network_namespace = _unshare(_CLONE_NEWNET | _CLONE_NEWIPC)
    has_empty_root = _enter_empty_root()
    _drop_capabilities((_CAP_KILL, _CAP_SETGID, _CAP_SETUID) if uids is not None else ())
    return Walls(
        uids=uids,
        has_user_namespace=has_user_namespace,
        has_pid_namespace=has_pid_namespace,
        has_network_namespace=has_network_namespace,
        has_empty_root=has_empty_root,
    )


def become_user(uid: int) -> None:
    """Change this process to a user and group id without other groups. Ends root's privileges."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


class OomScore:
    """The zygote's oom_score_adj, raised while it forks so that children are the kernel's first choice under OOM."""

    def __init__(self) -> None:
        self._fd: int | None = None
        with contextlib.suppress(OSError):
            self._own = max(int(Path("/proc/self/oom_score_adj").read_text()), _OOM_ZYGOTE)
            self._fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)

    def lower(self) -> None:
        """Set this process's own score."""
        self._write(self._own if self._fd is not None else 0)

    def raise_for_child(self) -> None:
        """Set the score that a child forked now inherits: the highest."""
        self._write(_OOM_CHILD)

    def _write(self, score: int) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.write(self._fd, str(score).encode())


def _find_uids() -> range | None:
    """Return the user ids for children; None without the right to change users, or if none is free."""
    if os.geteuid() != 0 or not _has_capabilities((_CAP_KILL, _CAP_SETGID, _CAP_SETUID)):
        return None
    mapped = [_mapped_ids(Path("/proc/self", name).read_text()) for name in ("uid_map", "gid_map")]
    for first, num in _UID_RANGES:
        if all(any(low <= first and first + num <= high for low, high in ids) for ids in mapped):
            return range(first, first + num)
    return None


def _mapped_ids(table: str) -> list[tuple[int, int]]:
    """Return the ranges [low, high) of ids that exist in this namespace, from the text of a `/proc/PID/uid_map`."""
    rows = [[int(field) for field in line.split()] for line in table.splitlines()]
    return [(first, first + num) for first, _, num in rows]


def _has_capabilities(wanted: tuple[int, ...]) -> bool:
    status = Path("/proc/self/status").read_text()
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return all(int(effective, 16) >> number & 1 for number in wanted)


def _enter_user_namespace() -> bool:
    """Enter a user namespace in which this user and group keep their ids and all others do not exist."""
    uid, gid = os.geteuid(), os.getegid()
    if not _unshare(_CLONE_NEWUSER):
        return False
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return True


def _enter_empty_root() -> bool:
    """Make an empty, deleted directory this process's root: no path leads anywhere."""
    try:
        path = tempfile.mkdtemp(prefix="decoder-root-")
    except OSError:
        return False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rmdir(path)
        os.fchdir(fd)
        os.chroot(".")
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _drop_capabilities(kept: tuple[int, ...]) -> None:
    """Drop all capabilities of this process except these, and all that it could gain."""
    for number in range(_LAST_CAPABILITY + 1):
        if number not in kept:
            seccomp.prctl(_PR_CAPBSET_DROP, number)
    bits = sum(1 << number for number in kept)
    head = ctypes.create_string_buffer(struct.pack("II", _CAPABILITY_VERSION, 0))
    data = ctypes.create_string_buffer(struct.pack("6I", bits, bits, 0, 0, 0, 0))
    _LIBC.capset(head, data)


def _unshare(flags: int) -> bool:
    return int(_LIBC.unshare(flags)) == 0
