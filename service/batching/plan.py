"""Choice of the next batch shape from the measured cost of each shape."""

from __future__ import annotations

from collections.abc import Mapping

# Seconds that a call costs beside the predictor: hand-over, assembly, answers. Without this term, noise in the measured
# costs could split one call into many.
HANDOVER_S = 0.0005
# A shape is efficient if a sample costs at most this many times what it costs in the best shape.
EFFICIENT = 1.25
# A shape counts as the best one if a sample costs at most this many times what it costs in the cheapest shape. Costs of
# one shape differ by as much from measurement to measurement, and a smaller shape is filled sooner.
NEARLY_BEST = 1.05


class BatchPlan:
    """Chooses batch shapes.

    A device call costs what its *shape* costs, so n waiting samples may be padded up to the next shape (cheap on a GPU,
    where a call has a fixed cost) or sent as a smaller full shape now and the rest right after (cheap on a CPU, where
    the cost grows with the shape). The plan takes the option that finishes first by the costs that are known.

    Attributes:
        costs_s: seconds of one call by batch shape, rising.
        sizes: the shapes, rising.
        efficient_size: the smallest shape that is efficient.
        best_size: the smallest shape in which a sample costs no more than in any other, but for noise.
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
        self.costs_s = dict(sorted(costs_s.items()))
        self.sizes = tuple(self.costs_s)
        self._first, self._total_s = self._choose()
        by_sample_s = {size: cost_s / size for size, cost_s in self.costs_s.items()}
        least_s = min(by_sample_s.values())
        self.efficient_size, self.best_size = (
            next(size for size, cost_s in by_sample_s.items() if cost_s <= factor * least_s)
            for factor in (EFFICIENT, NEARLY_BEST)
        )

    @property
    def max_batch(self) -> int:
        """Return the largest shape."""
        return self.sizes[-1]

    def next_size(self, num_waiting: int) -> int:
        """Return the shape to run now for `num_waiting` >= 1 samples."""
        return self._first[min(num_waiting, self.max_batch)]

    def shape_of(self, num_samples: int) -> int:
        """Return the smallest shape that holds `num_samples`; the largest shape if none does."""
        return next((size for size in self.sizes if size >= num_samples), self.max_batch)

    def cost_s(self, num_samples: int) -> float:
        """Return the planned seconds of one call for `num_samples`, padded to the next shape."""
        return self.costs_s[self.shape_of(num_samples)]

    def saving_s(self, num_now: int, num_later: int) -> float:
        """Return the seconds of device time saved by one batch of both instead of `num_now` first and the rest later.

        Counts at most one full batch: samples beyond it need another call either way.
        """
        num_later = min(num_later, max(0, self.max_batch - num_now))
        now, both = min(num_now, self.max_batch), min(num_now + num_later, self.max_batch)
        return max(0.0, self._total_s[now] + self._total_s[num_later] - self._total_s[both])

    def without(self, size: int) -> BatchPlan | None:
        """Return the plan for a device that cannot hold shape `size` or larger; None if no smaller shape is left."""
        costs_s = {smaller: cost_s for smaller, cost_s in self.costs_s.items() if smaller < size}
        return BatchPlan(costs_s) if costs_s else None

    @property
    def samples_per_s(self) -> float:
        """Return the samples per second of full batches."""
        return self.max_batch / max(self.costs_s[self.max_batch], 1e-9)

    def _choose(self) -> tuple[list[int], list[float]]:
        """Return, for each number of samples, the shape to run first and the seconds until all samples are done."""
        total_s = [0.0]
        first = [self.sizes[0]]
        for num in range(1, self.max_batch + 1):
            ways = [
                (round(self.costs_s[size] + HANDOVER_S + total_s[max(0, num - size)], 6), -size)
                for size in self.sizes
                if size <= self.shape_of(num)
            ]
            best_s, largest = min(ways)  # on a tie, the way whose first call answers the most samples
            total_s.append(best_s)
            first.append(-largest)
        return first, total_s
