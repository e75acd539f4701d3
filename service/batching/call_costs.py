"""Seconds of a call by batch shape: measured at warm-up, and followed from call to call."""

from __future__ import annotations

from collections.abc import Mapping

from service.batching.plan import BatchPlan

# A faster call counts at once; slower ones raise a cost by this share each, since most that slows a call down passes.
RISE = 0.02
# The cost that a shape is planned with falls by this share with each call of a smaller one, so that a shape that was
# measured too high is tried again: twice too high is forgotten after 350 calls, and a needless try costs a part of one
# call. Calls of larger ones do not count: a smaller one is used anyway when fewer samples wait, and as a try it would
# split full batches and delay all that wait behind them.
FORGET = 0.002
# Changes up to this share do not make a new plan; it would cost more than it could save.
LEAST_CHANGE = 0.02


class CallCosts:
    """Follows what calls cost, so that a service that started on a busy machine does not plan by wrong costs for ever.

    Args:
        costs_s: seconds of one call by batch shape, rising, as measured at warm-up.
    """

    def __init__(self, costs_s: Mapping[int, float]) -> None:
        self._measured_s = dict(costs_s)
        self._calls_of_smaller = dict.fromkeys(costs_s, 0)  # since the last call of the shape

    def note_call(self, size: int, cost_s: float) -> None:
        """Take in a call of shape `size` that took `cost_s`."""
        self._calls_of_smaller[size] = 0
        for larger in self._calls_of_smaller:
            self._calls_of_smaller[larger] += larger > size
        self._measured_s[size] = min(cost_s, self._measured_s[size] * (1 + RISE))

    def planned_s(self) -> dict[int, float]:
        """Return the seconds to plan with, by batch shape."""
        planned_s: dict[int, float] = {}
        least_s = 0.0
        for size, measured_s in self._measured_s.items():
            # A larger shape does not cost less than a smaller one, however long it was not in use.
            least_s = planned_s[size] = max(least_s, measured_s * (1 - FORGET) ** self._calls_of_smaller[size])
        return planned_s

    def updated(self, plan: BatchPlan) -> BatchPlan:
        """Return the plan for the present costs of the shapes of `plan`: the same one if they have hardly changed."""
        planned_s = self.planned_s()
        if all(abs(planned_s[size] - cost_s) <= LEAST_CHANGE * cost_s for size, cost_s in plan.costs_s.items()):
            return plan
        return BatchPlan({size: planned_s[size] for size in plan.sizes})
