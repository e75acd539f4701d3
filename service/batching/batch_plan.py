"""Which batch shape to run next, from the measured cost of each shape."""

from __future__ import annotations

from collections.abc import Mapping

# What a call costs beside the predictor: hand-over, assembly, answers. Keeps noise in the costs from making many calls
# of what one could do.
HANDOVER_S = 0.0005


class BatchPlan:
    """Chooses batch shapes.

    A device call costs what its *shape* costs, so n waiting samples may be padded up to the next shape (cheap on a GPU,
    where a call has a fixed cost) or sent as a smaller full shape now and the rest right after (cheap on a CPU, where
    the cost grows with the shape). The plan takes the way that is over soonest by the costs measured at warm-up.
    """

    def __init__(self, costs_s: Mapping[int, float]) -> None:
        """Make a plan.

        Args:
            costs_s: seconds of one call by batch shape; shapes that did not fit the device are left out.

        Raises:
            ValueError: no shape is left.
        """
        if not costs_s:
            raise ValueError("no batch shape fits the device")
        self._costs_s = dict(sorted(costs_s.items()))
        self.sizes = tuple(self._costs_s)
        self._first, self._total_s = self._choose()

    @property
    def max_batch(self) -> int:
        """The largest shape."""
        return self.sizes[-1]

    def next_size(self, num_waiting: int) -> int:
        """The shape to run now for `num_waiting` >= 1 samples."""
        return self._first[min(num_waiting, self.max_batch)]

    def shape_of(self, num_samples: int) -> int:
        """The smallest shape that holds `num_samples`; the largest shape where none does."""
        return next((size for size in self.sizes if size >= num_samples), self.max_batch)

    def cost_s(self, num_samples: int) -> float:
        """Measured seconds of one call for `num_samples`, at the shape that it is padded up to."""
        return self._costs_s[self.shape_of(num_samples)]

    def saving_s(self, num_now: int, num_later: int) -> float:
        """Return the seconds of device time saved by one batch of both instead of `num_now` first and the rest later.

        Counts at most one full batch: samples beyond it need another call either way.
        """
        num_later = min(num_later, max(0, self.max_batch - num_now))
        now, both = min(num_now, self.max_batch), min(num_now + num_later, self.max_batch)
        return max(0.0, self._total_s[now] + self._total_s[num_later] - self._total_s[both])

    def without(self, size: int) -> BatchPlan | None:
        """The plan for a device that cannot hold shape `size` (nor larger ones); None where nothing smaller is left."""
        costs_s = {smaller: cost_s for smaller, cost_s in self._costs_s.items() if smaller < size}
        return BatchPlan(costs_s) if costs_s else None

    @property
    def samples_per_s(self) -> float:
        """Samples per second of full batches."""
        return self.max_batch / max(self._costs_s[self.max_batch], 1e-9)

    def _choose(self) -> tuple[list[int], list[float]]:
        """For each number of samples: the shape to run first, and the seconds until all of them are done."""
        total_s = [0.0]
        first = [self.sizes[0]]
        for num in range(1, self.max_batch + 1):
            ways = [
                (round(self._costs_s[size] + HANDOVER_S + total_s[max(0, num - size)], 6), -size)
                for size in self.sizes
                if size <= self.shape_of(num)
            ]
            best_s, largest = min(ways)  # of equal ways the one whose first call answers most
            total_s.append(best_s)
            first.append(-largest)
        return first, total_s
