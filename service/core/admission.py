"""The one door: how many requests run at once, what is refused and when to come back, and the drain at the end."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from service.aio.interrupt import Interrupt
from service.aio.waits import ends_within
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.request import RequestContext
from service.telemetry.metrics import Metrics

_RATE_WINDOW_S = 60.0
"""Ended requests of the last minute give the drain rate: long enough for slow clips, short enough to follow load."""
_UNKNOWN_RATE_RETRY_S = 5.0
"""What is said before any request has ended: a typical clip's time."""
_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0
DRAINING_RETRY_S = 5.0
"""A drained process is replaced by another one within seconds."""


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """How many requests are inside at once, and how many live streams beside them."""

    max_requests: int
    max_live_streams: int = 32


class Admission:
    """Counts who is inside. Admit before allocating: before the body is read, before a file is made."""

    def __init__(
        self,
        policy: AdmissionPolicy,
        *,
        metrics: Metrics,
        clock: Clock,
        predicted_wait_s: Callable[[], float] = lambda: 0.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._predicted_wait_s = predicted_wait_s
        self._jitter = jitter
        self._inside: set[Permit] = set()
        self._ended_at_s: deque[float] = deque(maxlen=256)
        self._refused_since_end = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False
        self._is_stopped = False

    @property
    def in_flight(self) -> int:
        """Requests and live streams inside."""
        return len(self._inside)

    @property
    def is_draining(self) -> bool:
        """Whether new work is refused because the process is about to end."""
        return self._is_draining

    def admit(self, context: RequestContext) -> Permit:
        """A permit for the whole request, entered with `with`.

        Entering raises ServiceError `draining`, `queue_full`, `too_many_requests` (live streams) or
        `cannot_meet_deadline`, each with `retry_after_s`.
        """
        return Permit(self, context)

    def start_draining(self) -> None:
        """Refuse new work from now on; what is inside goes on."""
        self._is_draining = True

    def stop_running(self) -> None:
        """End whatever is still inside with `draining`; the last step of a drain."""
        self._is_stopped = True
        for permit in list(self._inside):
            permit.stop()

    async def wait_until_idle(self, timeout_s: float | None) -> bool:
        """Wait until nothing is inside; False if `timeout_s` passed first."""
        return await ends_within(timeout_s, self._idle.wait())

    def retry_after_s(self) -> float:
        """When a place should be free, from the measured rate of ended requests, spread by jitter.

        Every refusal since the last end stands in line before the next one, so that they do not all come back at once.
        """
        now = self._clock()
        recent = [at_s for at_s in self._ended_at_s if now - at_s <= _RATE_WINDOW_S]
        wait_s = _UNKNOWN_RATE_RETRY_S
        if recent:
            per_end_s = max(now - recent[0], 1e-3) / len(recent)
            wait_s = per_end_s * (1 + self._refused_since_end)
        spread = 0.8 + 0.4 * self._jitter()
        return min(max(wait_s * spread, _MIN_RETRY_S), _MAX_RETRY_S)

    def enter(self, permit: Permit) -> None:
        """Take a place for `permit` or refuse; called by the permit itself."""
        self._check(permit.context)
        self._inside.add(permit)
        self._idle.clear()
        self._gauge(permit, +1)

    def leave(self, permit: Permit) -> None:
        """Give the permit's place back; called by the permit itself."""
        self._inside.discard(permit)
        self._gauge(permit, -1)
        if not permit.is_live:
            self._ended_at_s.append(self._clock())
            self._refused_since_end = 0
        if not self._inside:
            self._idle.set()

    def _gauge(self, permit: Permit, change: int) -> None:
        gauge = self._metrics.live_streams if permit.is_live else self._metrics.requests_in_flight
        gauge.inc(change)

    def _check(self, context: RequestContext) -> None:
        if self._is_draining:
            raise self._refusal("draining", "This server is shutting down; try again, another one will answer.")
        is_live = context.transport == "live"
        num_inside = sum(permit.is_live == is_live for permit in self._inside)
        if is_live and num_inside >= self._policy.max_live_streams:
            limit = self._policy.max_live_streams
            raise self._refusal("too_many_requests", f"All {limit} live streams are taken; try again later.")
        if not is_live and num_inside >= self._policy.max_requests:
            limit = self._policy.max_requests
            raise self._refusal("queue_full", f"All {limit} places are taken; try again later.")
        wait_s = self._predicted_wait_s()
        left_s = context.deadline.remaining_s(self._clock)
        if wait_s > left_s:
            detail = (
                f"The wait is about {wait_s:.1f} s now and the request allows {left_s:.1f} s; allow more or try later."
            )
            raise self._refusal("cannot_meet_deadline", detail)

    def _refusal(self, code: str, detail: str) -> ServiceError:
        self._metrics.shed_total.labels(reason=code).inc()
        self._refused_since_end += 1
        retry_after_s = DRAINING_RETRY_S if code == "draining" else self.retry_after_s()
        return ServiceError(code, detail, retry_after_s=retry_after_s)


class Permit:
    """A place inside, held with `with`; it is given back however the body ends."""

    def __init__(self, admission: Admission, context: RequestContext) -> None:
        self._admission = admission
        self._interrupt = Interrupt()
        self.context = context
        self.is_live = context.transport == "live"

    def __enter__(self) -> Permit:
        self._admission.enter(self)
        self._interrupt.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self)
        self._interrupt.__exit__(kind, error, trace)

    def stop(self) -> None:
        """End the request with `draining`."""
        detail = "This server shut down before the request was done; send it again."
        self._interrupt.fire(ServiceError("draining", detail, retry_after_s=DRAINING_RETRY_S))
