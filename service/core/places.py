"""Places for work, shared fairly between callers.

A request takes a place when its work can start and releases it when the work ends; uploading and reading an answer need
none. Callers that find no free place wait in a bounded line. A free place goes to the waiting caller with the fewest
places for its weight. When the line is full, a new request replaces the last request of the caller that has most for
its weight, unless that is its own caller. A caller within its share of places and line is therefore never refused.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType

from service.core.drain_rate import DrainRate
from service.domain.caller import Caller
from service.domain.errors import ServiceError
from service.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class PlacePolicy:
    """Number of requests that work at once, and that may wait for a place."""

    num_places: int
    max_waiting: int = 0


@dataclass(slots=True)
class _Waiter:
    """A waiting request. One that resumes lent its place in the middle of its work and is never refused."""

    party: str
    number: int
    is_resuming: bool
    granted: asyncio.Future[None]


@dataclass(slots=True)
class _Share:
    """Places and waiting requests of one caller."""

    weight: float
    num_working: int = 0
    waiting: deque[_Waiter] = field(default_factory=deque)

    @property
    def load(self) -> float:
        """Return places and positions in line, relative to the weight."""
        return (self.num_working + len(self.waiting)) / self.weight


class Places:
    """All places of the process.

    Args:
        policy: limits.
        metrics: gauges and refusals.
        rate: measures ends of work, for Retry-After.
    """

    def __init__(self, policy: PlacePolicy, *, metrics: Metrics, rate: DrainRate) -> None:
        self._policy = policy
        self._metrics = metrics
        self._rate = rate
        self._shares: dict[str, _Share] = {}
        self._num_working = 0
        self._num_waiting = 0
        self._numbers = itertools.count()
        metrics.places_taken.set_function(lambda: self._num_working)
        metrics.requests_waiting.set_function(lambda: self._num_waiting)

    @property
    def num_working(self) -> int:
        """Return the number of taken places."""
        return self._num_working

    @property
    def num_waiting(self) -> int:
        """Return the number of waiting requests."""
        return self._num_waiting

    def check(self, caller: Caller) -> None:
        """Raise `queue_full` if a request of this caller would be refused now."""
        if self._has_room() or self._victim(caller) is not None:
            return
        raise self._refusal()

    def place(self, caller: Caller) -> Place:
        """Return a place. Entering it with `async with` waits for its turn and raises `queue_full`."""
        return Place(self, caller)

    async def acquire(self, caller: Caller, *, is_resuming: bool = False) -> None:
        """Take a place. Called by `Place`."""
        share = self._shares.setdefault(caller.party, _Share(caller.weight))
        share.weight = caller.weight
        if self._num_working < self._policy.num_places and not self._num_waiting:
            self._start(share)
            return
        try:
            if not (is_resuming or self._has_room()):
                self._displace(caller)
            await self._wait(caller.party, share, is_resuming=is_resuming)
        finally:
            self._forget(caller.party)

    def release(self, caller: Caller, *, has_ended: bool) -> None:
        """Release a place. Called by `Place`."""
        self._shares[caller.party].num_working -= 1
        self._num_working -= 1
        if has_ended:
            self._rate.ended()
        self._grant()
        self._forget(caller.party)

    async def _wait(self, party: str, share: _Share, *, is_resuming: bool) -> None:
        waiter = _Waiter(party, next(self._numbers), is_resuming, asyncio.get_running_loop().create_future())
        (share.waiting.appendleft if is_resuming else share.waiting.append)(waiter)
        self._num_waiting += 1
        try:
            await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                share.num_working -= 1
                self._num_working -= 1
                self._grant()
            else:
                self._remove(waiter)
            raise

    def _remove(self, waiter: _Waiter) -> None:
        """Remove a waiter from the line, if it is still there."""
        share = self._shares.get(waiter.party)
        if share is not None and waiter in share.waiting:
            share.waiting.remove(waiter)
            self._num_waiting -= 1

    def _start(self, share: _Share) -> None:
        share.num_working += 1
        self._num_working += 1

    def _grant(self) -> None:
        """Give free places to waiting requests, to the caller with the fewest for its weight first."""
        while self._num_waiting and self._num_working < self._policy.num_places:
            share = min(
                (share for share in self._shares.values() if share.waiting),
                key=lambda share: (share.num_working / share.weight, share.waiting[0].number),
            )
            waiter = share.waiting.popleft()
            self._num_waiting -= 1
            if not waiter.granted.done():
                share.num_working += 1
                self._num_working += 1
                waiter.granted.set_result(None)

    def _has_room(self) -> bool:
        return self._num_waiting < self._policy.max_waiting or (
            self._num_working < self._policy.num_places and not self._num_waiting
        )

    def _victim(self, caller: Caller) -> _Waiter | None:
        """Return the waiter that a new request of `caller` replaces; None if `caller` itself has most."""
        own = self._shares.get(caller.party)
        wanted = ((0 if own is None else own.num_working + len(own.waiting)) + 1) / caller.weight
        heavier = [
            (share.load, waiter)
            for party, share in self._shares.items()
            if party != caller.party and share.load > wanted
            for waiter in itertools.islice((w for w in reversed(share.waiting) if not w.is_resuming), 1)
        ]
        return max(heavier, key=lambda found: found[0])[1] if heavier else None

    def _displace(self, caller: Caller) -> None:
        """Make room in a full line. Raises `queue_full` if there is none for this caller."""
        victim = self._victim(caller)
        if victim is None:
            raise self._refusal()
        self._remove(victim)
        if not victim.granted.done():
            victim.granted.set_exception(self._refusal())

    def _refusal(self) -> ServiceError:
        self._metrics.shed_total.labels(reason="queue_full").inc()
        self._rate.refused()
        places, line = self._policy.num_places, self._policy.max_waiting
        waiting = f" and {line} requests wait" if line else ""
        detail = f"All {places} places are taken{waiting}; try again later."
        return ServiceError("queue_full", detail, retry_after_s=self._rate.retry_after_s())

    def _forget(self, party: str) -> None:
        share = self._shares.get(party)
        if share is not None and not share.num_working and not share.waiting:
            del self._shares[party]


class Place:
    """The place of one request, used with `async with`."""

    def __init__(self, places: Places, caller: Caller) -> None:
        self._places = places
        self._caller = caller
        self._is_held = False

    async def __aenter__(self) -> Place:
        await self._places.acquire(self._caller)
        self._is_held = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_held:
            self._is_held = False
            self._places.release(self._caller, has_ended=True)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[None]:
        """Lend the place to others while the body waits, then take a place again."""
        self._is_held = False
        self._places.release(self._caller, has_ended=False)
        yield
        await self._places.acquire(self._caller, is_resuming=True)
        self._is_held = True
