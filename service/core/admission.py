"""Admission: which requests are let in, which are refused with which retry delay, and the drain at shutdown.

A request is inside from its head until its answer has been read. It then costs a connection, file descriptors and room
in the spool, so many may be inside. Work needs one of few places (`service/core/places.py`), which the pipeline takes.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from service.aio.interrupt import Interrupt
from service.aio.waits import ends_within
from service.core.drain_rate import DrainRate
from service.core.places import PlacePolicy, Places
from service.core.usage import KeyUsage
from service.domain.caller import Caller
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.request import RequestContext
from service.telemetry.metrics import Metrics

# Retry delay in seconds while draining: a drained process is replaced within seconds.
DRAINING_RETRY_S = 5.0
# One caller may open this many times as many requests as are still free, so that a single caller gets at most four
# fifths and a newcomer always finds room (dynamic thresholds of Choudhury and Hahne, IEEE/ACM ToN 6(2), 1998).
_ROOM_FACTOR = 4


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """Limits of admission.

    Attributes:
        max_requests: requests that work at once.
        max_live_streams: live streams, in addition to the requests.
        max_waiting: requests that wait for a place.
        max_open: requests inside, most of which upload or are being read.
    """

    max_requests: int
    max_live_streams: int = 32
    max_waiting: int = 0
    max_open: int = 2048


class Admission:
    """Counts the requests inside. Admit before allocating: before the body is read and before a file is created.

    Attributes:
        places: places for work.
        usage: usage of API keys.
    """

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
        self._rate = DrainRate(clock=clock, jitter=jitter)
        self.places = Places(PlacePolicy(policy.max_requests, policy.max_waiting), metrics=metrics, rate=self._rate)
        self.usage = KeyUsage(metrics=metrics, clock=clock)
        self._inside: set[Permit] = set()
        self._num_by_party: Counter[tuple[bool, str]] = Counter()
        self._num_live = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False
        self._is_stopped = False
        metrics.live_streams.set_function(lambda: self._num_live)
        metrics.requests_in_flight.set_function(lambda: len(self._inside) - self._num_live)

    @property
    def in_flight(self) -> int:
        """Return the number of requests and live streams inside."""
        return len(self._inside)

    @property
    def is_working(self) -> bool:
        """Return whether a request holds a place or a live stream is open."""
        return self.places.num_working > 0 or self._num_live > 0

    @property
    def is_draining(self) -> bool:
        """Return whether new work is refused because the process shuts down."""
        return self._is_draining

    def admit(self, context: RequestContext) -> Permit:
        """Return a permit for the whole request, entered with `with`.

        Entering raises ServiceError `draining`, `queue_full`, `too_many_requests` (live streams, open requests, the
        limits of a key) or `cannot_meet_deadline`, each with `retry_after_s`.
        """
        return Permit(self, context)

    def start_draining(self) -> None:
        """Refuse new requests. Requests inside continue."""
        self._is_draining = True

    def stop_running(self) -> None:
        """End all requests inside with `draining`. Last step of a drain."""
        self._is_stopped = True
        for permit in list(self._inside):
            permit.stop()

    async def wait_until_idle(self, timeout_s: float | None) -> bool:
        """Wait until no request is inside. Return False if `timeout_s` passed first."""
        return await ends_within(timeout_s, self._idle.wait())

    def enter(self, permit: Permit) -> None:
        """Admit or refuse `permit`. Called by the permit itself."""
        self._check(permit.context, is_live=permit.is_live)
        self._inside.add(permit)
        self._idle.clear()
        self._count(permit, +1)

    def leave(self, permit: Permit) -> None:
        """Count `permit` out. Called by the permit itself."""
        self._inside.discard(permit)
        self._count(permit, -1)
        if not self._inside:
            self._idle.set()

    def _count(self, permit: Permit, change: int) -> None:
        self._num_live += change * permit.is_live
        key = (permit.is_live, permit.context.caller.party)
        self._num_by_party[key] += change
        if not self._num_by_party[key]:
            del self._num_by_party[key]

    def _check(self, context: RequestContext, *, is_live: bool) -> None:
        if self._is_draining:
            raise self._refusal("draining", "This server is shutting down; try again, another one will answer.")
        self._check_key(context.caller)
        if is_live:
            self._check_live(context.caller)
        else:
            self._check_open(context.caller)
            self.places.check(context.caller)
        wait_s = self._predicted_wait_s()
        left_s = context.deadline.remaining_s(self._clock)
        if wait_s > left_s:
            detail = (
                f"The wait is about {wait_s:.1f} s now and the request allows {left_s:.1f} s; "
                "send a longer timeout or try again later."
            )
            raise self._refusal("cannot_meet_deadline", detail)

    def _check_key(self, caller: Caller) -> None:
        """Check the limits of the caller's key."""
        limit = caller.limits.requests
        num = self._num_by_party[False, caller.party] + self._num_by_party[True, caller.party]
        if limit is not None and num >= limit:
            raise self._refusal(
                "too_many_requests", f"This API key may have {limit} requests at once; try again later."
            )
        self.usage.check(caller)

    def _check_live(self, caller: Caller) -> None:
        limit = self._policy.max_live_streams
        if self._num_live >= limit:
            raise self._refusal("too_many_requests", f"All {limit} live streams are taken; try again later.")
        # Addresses are not limited here: without keys, all callers behind a proxy share one address.
        if caller.key_id and self._num_by_party[True, caller.party] >= _ROOM_FACTOR * (limit - self._num_live):
            detail = f"The rest of the {limit} live streams is kept for other API keys; try again later."
            raise self._refusal("too_many_requests", detail)

    def _check_open(self, caller: Caller) -> None:
        limit = self._policy.max_open
        num_open = len(self._inside) - self._num_live
        if self._num_by_party[False, caller.party] >= _ROOM_FACTOR * (limit - num_open):
            detail = f"{num_open} of {limit} requests are open, too many of them of this caller; try again later."
            raise self._refusal("too_many_requests", detail)

    def _refusal(self, code: str, detail: str) -> ServiceError:
        self._metrics.shed_total.labels(reason=code).inc()
        self._rate.refused()
        retry_after_s = DRAINING_RETRY_S if code == "draining" else self._rate.retry_after_s()
        return ServiceError(code, detail, retry_after_s=retry_after_s)


class Permit:
    """A request inside, used as a context manager."""

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
