"""Return freed memory to the system, where the C library is glibc."""

from __future__ import annotations

import ctypes

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest values that glibc itself chooses. It raises both as large buffers are freed, so that later ones of the
# size are reused and not mapped anew, but no longer does once one of them has been set.
_MMAP_THRESHOLD_BYTES = 32 * 1024**2
_TRIM_THRESHOLD_BYTES = 2 * _MMAP_THRESHOLD_BYTES
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
