"""Memory that only the start needed goes back to the system: freed buffers, and code that nothing runs any more."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

from service.batching.startup_memory import unwritten_code

_MB = 10**6
_PAGE_KB = mmap.PAGESIZE // 1024
# In processes of their own: what a C library keeps depends on all that was allocated before, and other tests' code
# need not leave memory.
_FREE = """
import threading
import numpy as np
import psutil
from service.batching.startup_memory import release_freed_memory

def resident():
    return psutil.Process().memory_info().rss

def work():
    mapped = np.ones(30_000_000, np.uint8)
    del mapped  # from now on glibc keeps buffers of this size
    before = resident()
    buffers = [np.ones(4_000_000, np.uint8) for _ in range(10)]
    del buffers
    kept = resident() - before
    release_freed_memory()
    print(kept, resident() - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
# Maps a file as a library's code is mapped, reads all of it, and in the second run writes to one page before.
_MAP = """
import ctypes, mmap, sys
from service.batching.startup_memory import unmap_code

path, is_written = sys.argv[1], sys.argv[2] == "written"
with open(path, "rb") as file:
    code = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
if is_written:
    code[5000] = 1
length = len(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert libc.mprotect(address, length, mmap.PROT_READ | mmap.PROT_EXEC) == 0
ctypes.string_at(address, length)

def resident_kb():
    lines = iter(open("/proc/self/smaps"))
    for line in lines:
        if line.startswith(f"{address:x}-"):
            break
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

before = resident_kb()
unmap_code()
print(before, resident_kb(), ctypes.string_at(address, length)[5000])
"""


def test_a_threads_freed_buffers_go_back() -> None:
    kept, left = _run(_FREE)
    assert kept > 30 * _MB
    assert left < 5 * _MB


def test_code_leaves_memory_and_is_read_again_from_its_file(tmp_path: Path) -> None:
    assert _run(_MAP, str(_file_of(1000, tmp_path)), "clean") == [1000 * _PAGE_KB, 0, 7]


def test_code_that_was_written_to_stays(tmp_path: Path) -> None:
    assert _run(_MAP, str(_file_of(1000, tmp_path)), "written") == [1000 * _PAGE_KB, 1000 * _PAGE_KB, 1]


def test_what_counts_as_code_that_is_as_its_file_has_it() -> None:
    def mapping(first: int, rights: str, name: str, **facts: int) -> list[str]:
        head = f"{first:x}-{first + 0x1000:x} {rights} 00000000 fd:00 123".ljust(73) + name
        return [head, "Rss: 4 kB", *(f"{key}: {value} kB" for key, value in facts.items()), "VmFlags: rd ex mr mw me"]

    clean = {"Anonymous": 0, "Swap": 0, "SwapPss": 0, "Private_Hugetlb": 0}
    lines = [
        *mapping(0x1000, "r-xp", "/usr/lib/plain.so", **clean),
        *mapping(0x3000, "r-xp", "/opt/a folder/lib.so", **clean),
        *mapping(0x5000, "r-xp", "/usr/lib/written.so", **clean | {"Anonymous": 4}),
        *mapping(0x7000, "r-xp", "/usr/lib/swapped.so", **clean | {"Swap": 4}),
        *mapping(0x9000, "rwxp", "/usr/lib/writable.so", **clean),
        *mapping(0xB000, "r-xp", "[vdso]", **clean),
        *mapping(0xD000, "r-xp", "", **clean),
        "\r",  # the end of a name with a line break
        *mapping(0xF000, "r-xp", "/usr/lib/last.so", **clean),
    ]
    assert list(unwritten_code(lines)) == [(0x1000, 0x2000), (0x3000, 0x4000), (0xF000, 0x10000)]


def _file_of(num_pages: int, folder: Path) -> Path:
    path = folder / "library.so"
    path.write_bytes(b"\7" * num_pages * mmap.PAGESIZE)
    return path


def _run(code: str, *arguments: str) -> list[int]:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [int(word) for word in done.stdout.split()]
