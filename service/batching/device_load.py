"""The calls that were handed over to the device: which run, which wait, and when it takes the next one."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.deadline import Clock


@dataclass(slots=True, eq=False)
class Call:
    """A call of the device: the seconds that it is expected to take, and when it began; None while it waits."""

    cost_s: float
    began_s: float | None


class DeviceLoad:
    """Counts calls from hand-over to end. A GPU runs one at a time, a CPU several.

    One call may wait in the device's queue, so that the device does not idle while the next batch is formed.

    Attributes:
        parallel_calls: most calls that run at the same time.
    """

    def __init__(self, *, clock: Clock) -> None:
        self.parallel_calls = 1
        self._clock = clock
        self._calls: list[Call] = []  # in the order of their hand-over: those that run come first

    @property
    def is_idle(self) -> bool:
        """Whether no call runs."""
        return not self._calls

    @property
    def is_free(self) -> bool:
        """Whether a call handed over now would run at once."""
        return len(self._calls) < self.parallel_calls

    @property
    def has_room(self) -> bool:
        """Whether another call may be handed over."""
        return len(self._calls) <= self.parallel_calls

    @property
    def busy_for_s(self) -> float:
        """Seconds until a call handed over now would run, by the expected costs; 0 while the device is free."""
        if self.is_free:
            return 0.0
        now_s = self._clock()
        ends_s = sorted(max(now_s, call.began_s + call.cost_s) for call in self._calls if call.began_s is not None)
        for call in self._calls:
            if call.began_s is None:
                ends_s = sorted([ends_s[0] + call.cost_s, *ends_s[1:]])
        return ends_s[0] - now_s

    def hand_over(self, cost_s: float) -> Call:
        """Note a call that is expected to take `cost_s`; `end` must follow."""
        call = Call(cost_s, self._clock() if self.is_free else None)
        self._calls.append(call)
        return call

    def end(self, call: Call) -> None:
        """Note that a call has ended; the next one that waits begins."""
        self._calls.remove(call)
        for waiting in self._calls:
            if waiting.began_s is None:
                waiting.began_s = self._clock()
                return
