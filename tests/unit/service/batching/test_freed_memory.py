"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

_MB = 10**6
# In a process of its own: what a C library keeps depends on all that was allocated before.
_CODE = """
import threading
import numpy as np
import psutil
from service.batching.freed_memory import release_freed_memory

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


def test_a_threads_freed_buffers_go_back() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=60)
    kept, left = map(int, done.stdout.split())
    assert kept > 30 * _MB
    assert left < 5 * _MB
