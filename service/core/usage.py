"""Usage of API keys: limits per minute, and the metrics by key."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.caller import Caller
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.telemetry.metrics import Metrics

_MINUTE_S = 60.0
# Number of keys with a metric label of their own; further keys share `other`. Bounds the number of time series.
MAX_LABELS = 100
OTHER = "other"


@dataclass(slots=True)
class _Bucket:
    """A token bucket that may go into debt: running work is never cut off, new work waits."""

    level: float
    at_s: float

    def refill(self, per_minute: float, now_s: float) -> None:
        self.level = min(per_minute, self.level + (now_s - self.at_s) * per_minute / _MINUTE_S)
        self.at_s = now_s


class KeyUsage:
    """Counts samples and bytes of keys, and refuses keys that have used up their minute."""

    def __init__(self, *, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._labels: dict[str, str] = {}

    def check(self, caller: Caller) -> None:
        """Raise `too_many_requests` if the key has used more than its samples or bytes per minute."""
        limits = caller.limits
        for what, per_minute in (("samples", limits.samples_per_minute), ("bytes", limits.bytes_per_minute)):
            if per_minute is None:
                continue
            bucket = self._bucket(caller, what, per_minute)
            if bucket.level <= 0:
                self._metrics.shed_total.labels(reason="too_many_requests").inc()
                raise ServiceError(
                    "too_many_requests",
                    f"This API key has used its {per_minute:g} {what} a minute; try again later.",
                    retry_after_s=max(1.0, (1 - bucket.level) * _MINUTE_S / per_minute),
                )

    def add_samples(self, caller: Caller, num_samples: int) -> None:
        """Count segmented samples."""
        self._spend(caller, "samples", caller.limits.samples_per_minute, num_samples)
        if caller.key_id:
            self._metrics.key_samples_total.labels(key=self.label(caller)).inc(num_samples)

    def add_bytes(self, caller: Caller, num_bytes: int) -> None:
        """Count received bytes of uploads."""
        self._spend(caller, "bytes", caller.limits.bytes_per_minute, num_bytes)
        if caller.key_id:
            self._metrics.key_upload_bytes_total.labels(key=self.label(caller)).inc(num_bytes)

    def add_request(self, caller: Caller, *, outcome: str) -> None:
        """Count an ended request: `ok`, `refused` (429) or `failed`."""
        if caller.key_id:
            self._metrics.key_requests_total.labels(key=self.label(caller), outcome=outcome).inc()

    def label(self, caller: Caller) -> str:
        """Return the key's metric label: its name, or its id without one; `other` beyond the first hundred."""
        if caller.key_id not in self._labels:
            if len(self._labels) >= MAX_LABELS:
                return OTHER
            self._labels[caller.key_id] = caller.name or caller.key_id
        return self._labels[caller.key_id]

    def _spend(self, caller: Caller, what: str, per_minute: float | None, amount: int) -> None:
        if per_minute is not None:
            self._bucket(caller, what, per_minute).level -= amount

    def _bucket(self, caller: Caller, what: str, per_minute: float) -> _Bucket:
        now_s = self._clock()
        bucket = self._buckets.setdefault((caller.key_id, what), _Bucket(per_minute, now_s))
        bucket.refill(per_minute, now_s)
        return bucket
