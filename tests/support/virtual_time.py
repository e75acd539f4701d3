"""An event loop whose clock jumps: waits take no real time, so that tests about time are exact and fast."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import TypeVar

_R = TypeVar("_R")


class _JumpingSelector(selectors.SelectSelector):
    """Where the loop would sleep, the clock jumps instead."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events:
            return events
        if timeout is None:
            raise RuntimeError("nothing can happen any more: every task waits for another one")
        self.now_s += max(timeout, 1e-6)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual; it moves only when nothing is left to do now."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def virtual_clock() -> float:
    """The clock to inject: that of the running loop."""
    return asyncio.get_running_loop().time()


def run_virtual(work: Coroutine[object, object, _R]) -> _R:
    """Run a coroutine to its end on virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)


def on_virtual_time(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    """Decorate a test so that it runs on virtual time."""

    @functools.wraps(test)
    def run(*arguments: object, **fixtures: object) -> None:
        run_virtual(test(*arguments, **fixtures))

    return run
