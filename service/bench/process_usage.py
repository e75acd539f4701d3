"""CPU time and memory of a process and all its descendants, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
# Fields of /proc/PID/stat behind the name of the program, counted from 0 (man 5 proc).
_PARENT, _TIMES = 1, slice(11, 15)
_KIB = 1024


def descendants_of(pid: int) -> list[int]:
    """Return the ids of a process and of all that descend from it; the process comes first."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdecimal() and (fields := _stat(int(folder.name))) is not None:
            children.setdefault(int(fields[_PARENT]), []).append(int(folder.name))
    found = [pid]
    for each in found:  # grows while it is read
        found += children.get(each, [])
    return found


def tree_cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and its descendants, with those that have ended and been reaped."""
    stats = [fields for each in descendants_of(pid) if (fields := _stat(each)) is not None]
    return sum(int(ticks) for fields in stats for ticks in fields[_TIMES]) / os.sysconf("SC_CLK_TCK")


def tree_pss_bytes(pid: int) -> int:
    """Proportional set size of a process and its descendants: shared pages are divided among those that share them.

    A descendant that may not be read (another user's, without privileges) counts as 0.
    """
    return sum(_pss_bytes(each) for each in descendants_of(pid))


def _stat(pid: int) -> list[str] | None:
    """The fields behind the program's name; None for a process that has gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _pss_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * _KIB for line in lines if line.startswith("Pss:"))
