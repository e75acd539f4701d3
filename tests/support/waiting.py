"""Waiting for a condition, in a coroutine or in a thread, with an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# A condition that is not true after this long never will be. Tenfold what a busy machine needs.
HANG_S = 60.0


async def until(is_so: Callable[[], object], *, what: str = "", hang_s: float = HANG_S, pause_s: float = 0.01) -> None:
    """Return when `is_so()` is true.

    Raises:
        AssertionError: it was still false after `hang_s`; the message names `what`.
    """
    end_s = asyncio.get_running_loop().time() + hang_s
    while not is_so():
        assert asyncio.get_running_loop().time() < end_s, f"never happened: {what or is_so}"
        await asyncio.sleep(pause_s)


def wait_until(is_so: Callable[[], object], *, what: str = "", hang_s: float = HANG_S, pause_s: float = 0.05) -> None:
    """`until` for threads."""
    end_s = time.monotonic() + hang_s
    while not is_so():
        assert time.monotonic() < end_s, f"never happened: {what or is_so}"
        time.sleep(pause_s)
