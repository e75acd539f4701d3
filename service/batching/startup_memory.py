"""Return memory that only the start needed to the system: what was freed, on glibc, and code, on Linux."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import re
from collections.abc import Iterable, Iterator

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest values that glibc itself chooses. It raises both as large buffers are freed, so that later ones of the
# size are reused and not mapped anew, but no longer does once one of them has been set.
_MMAP_THRESHOLD_BYTES = 32 * 1024**2
_TRIM_THRESHOLD_BYTES = 2 * _MMAP_THRESHOLD_BYTES
# Addresses, rights, offset, device, inode and name of a mapping, whose facts follow.
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)")
# Pages that are no longer those of the file: in memory, and swapped out. Those of huge pages are not told.
_WRITTEN = ("Anonymous:", "Swap:", "Private_Hugetlb:")
# Freeing 64 KiB or more looks at the end of the thread's arena.
_PIECE_BYTES = 128 * 1024


def release_freed_memory() -> None:
    """Give back what this process has freed, with the free end of this thread's arena.

    `malloc_trim` alone left 0 to 50 MB, another amount at each start, after the warm-up of `lite`. From now on the
    thresholds of glibc are fixed, also where MALLOC_MMAP_THRESHOLD_ or MALLOC_TRIM_THRESHOLD_ had set them.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, 0)
    libc.free(libc.malloc(_PIECE_BYTES))
    libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    libc.malloc_trim(0)


def unmap_code() -> None:
    """Take the code of programs and libraries out of this process's memory; what runs on is mapped again, page by page.

    Loading torch and registering its operators runs code all over a library of hundreds of megabytes, of which calls
    of the model need a small part. While the page cache keeps a page, mapping it again reads no disk.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with contextlib.suppress(OSError), open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as lines:
        for start, end in list(unwritten_code(lines)):
            libc.madvise(start, end - start, mmap.MADV_DONTNEED)


def unwritten_code(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """First address and end of each mapping of executable code that is as its file has it.

    A page that was written to (by a debugger, or text relocations of an old library) is not in the file: giving it
    back would lose it, so its mapping is left out.

    Args:
        smaps: lines as of /proc/PID/smaps (proc_pid_smaps(5)).
    """
    place: tuple[int, int] | None = None
    num_written_kb = 0
    for line in smaps:
        if found := _MAPPING.match(line):
            if place and not num_written_kb:
                yield place
            start, end, rights, name = found.groups()
            place = (int(start, 16), int(end, 16)) if rights == "r-xp" and name.startswith("/") else None
            num_written_kb = 0
        elif line.startswith(_WRITTEN):
            num_written_kb += int(line.split()[1])
    if place and not num_written_kb:
        yield place
