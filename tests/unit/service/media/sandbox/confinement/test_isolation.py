"""Users, namespaces and the empty root of a child, tried from inside."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from service.media.sandbox.confinement import isolation

LIBC = ctypes.CDLL(None, use_errno=True)


def walled(action: Callable[[isolation.Walls], bytes]) -> bytes:
    """What `action` returns in a process that has raised its walls."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, action(isolation.raise_walls()))
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    answer = os.read(read, 65_536)
    os.close(read)
    return answer


def capabilities() -> tuple[int, int, int]:
    """Effective, permitted and inheritable capabilities of this process as bits."""
    head = ctypes.create_string_buffer(struct.pack("II", 0x20080522, 0))
    data = ctypes.create_string_buffer(24)
    assert LIBC.capget(head, data) == 0
    low, high = struct.unpack("3I3I", data.raw)[:3], struct.unpack("3I3I", data.raw)[3:]
    return low[0] | high[0] << 32, low[1] | high[1] << 32, low[2] | high[2] << 32


def test_walls_leave_no_capability_but_to_change_users_and_end_children() -> None:
    def look(walls: isolation.Walls) -> bytes:
        kept = 0 if walls.uids is None else 1 << 5 | 1 << 6 | 1 << 7
        return b"right" if capabilities() == (kept, kept, 0) else str(capabilities()).encode()

    assert walled(look) == b"right"


def test_another_user_has_no_capability_at_all() -> None:
    def look(walls: isolation.Walls) -> bytes:
        if walls.uids is not None:
            isolation.become_user(walls.uids[3])
            assert os.getresuid() == (walls.uids[3],) * 3
            assert os.getgroups() == []
        return str(capabilities()).encode()

    assert walled(look) == b"(0, 0, 0)"


def test_an_empty_root_leads_nowhere() -> None:
    def look(walls: isolation.Walls) -> bytes:
        return f"{walls.has_empty_root} {os.path.exists('/etc')} {os.path.exists('..')}".encode()

    answer = walled(look)
    assert answer in (b"True False True", b"False True True")
    if os.geteuid() == 0:
        assert answer.startswith(b"True")


def test_ids_are_taken_from_those_that_exist() -> None:
    assert isolation._mapped_ids("0 0 4294967295\n") == [(0, 4_294_967_295)]
    assert isolation._mapped_ids("0 100000 65536\n 70000 1 1\n") == [(0, 65_536), (70_000, 70_001)]


def test_the_oom_killer_takes_children_first() -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            score = isolation.OomScore()
            score.lower()
            own = int(Path("/proc/self/oom_score_adj").read_text())
            score.raise_for_child()
            child = os.fork()
            if child == 0:
                os._exit(0 if int(Path("/proc/self/oom_score_adj").read_text()) == 1000 else 1)
            score.lower()
            is_right = os.waitpid(child, 0)[1] == 0 and own >= 500
            code = 0 if is_right and int(Path("/proc/self/oom_score_adj").read_text()) == own else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
