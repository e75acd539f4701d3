"""Spans as the service sees them: what happened to a request, when, and as part of what.

A span is named by the `traceparent` of W3C Trace Context, a short string that travels in values (a request's context, a
chunk, a job), so nothing here is global and a span may be continued in another process. Without a collector
`NO_TRACES` stands in: it records nothing, imports nothing, and hands the caller's `traceparent` on as it came.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from service.domain.errors import CODES, Kind, ServiceError

Value = str | int | float | bool
# `server` answers a caller, `producer` hands work to a queue, `consumer` takes it from one.
SpanKind = Literal["internal", "server", "producer", "consumer"]
# Kinds that mark a span as failed; what a caller did wrong is an answer like any other.
OUR_FAILURES = frozenset({Kind.INTERNAL, Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.STORAGE_FULL})
_SAMPLED_FLAG = 1


class Span(Protocol):
    """Something that is going on. Attribute names are told as `avesformer.<name>`."""

    @property
    def traceparent(self) -> str:
        """Names this span to what happens as part of it; empty where there is nothing to be part of."""
        ...

    def set(self, **attributes: Value) -> None:
        """Tell more about it."""
        ...

    def fail(self, code: str) -> None:
        """It ended with this stable code."""
        ...

    def child(self, name: str) -> AbstractContextManager[Span]:
        """A span that is part of this one, from here to the end of the block."""
        ...


class Traces(Protocol):
    """Where spans go. No call blocks, waits or raises."""

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded; callers may save themselves the trouble of telling."""
        ...

    def span(
        self, name: str, *, parent: str = "", kind: SpanKind = "internal", **attributes: Value
    ) -> AbstractContextManager[Span]:
        """A span from here to the end of the block, failed by the error that leaves it.

        Args:
            name: what happens; one of few.
            parent: `traceparent` of what it is part of; empty begins a trace.
            kind: see `SpanKind`.
            attributes: what is known of it by now.
        """
        ...

    def record(
        self,
        name: str,
        times_s: tuple[float, float],
        *,
        parent: str = "",
        links: Sequence[str] = (),
        code: str = "ok",
        **attributes: Value,
    ) -> str:
        """A span that is over already; returns its `traceparent`.

        Args:
            name: what happened; one of few.
            times_s: start and end on the process's monotonic clock.
            parent: see `span`.
            links: `traceparent` of spans that it has to do with and is not part of.
            code: stable code that it ended with.
            attributes: what is known of it.
        """
        ...

    async def aclose(self) -> None:
        """Send what is left, for a bounded time."""
        ...


class _NoSpan:
    """Stands for whatever it would be part of."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def set(self, **attributes: Value) -> None:
        """Nothing is told."""

    def fail(self, code: str) -> None:
        """Nothing is told."""

    def child(self, name: str) -> AbstractContextManager[Span]:
        return self

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing ends."""


class _NoTraces:
    """Records nothing."""

    is_on = False

    def span(
        self, name: str, *, parent: str = "", kind: SpanKind = "internal", **attributes: Value
    ) -> AbstractContextManager[Span]:
        return _NoSpan(parent)

    def record(
        self,
        name: str,
        times_s: tuple[float, float],
        *,
        parent: str = "",
        links: Sequence[str] = (),
        code: str = "ok",
        **attributes: Value,
    ) -> str:
        return parent

    async def aclose(self) -> None:
        """There is nothing to send."""


NO_SPAN: Span = _NoSpan("")
NO_TRACES: Traces = _NoTraces()


@contextmanager
def failing(span: Span) -> Iterator[None]:
    """The error that leaves the block is told by its code."""
    try:
        yield
    except ServiceError as error:
        span.fail(error.code)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        span.fail("client_gone")
        raise
    except BaseException:
        span.fail("internal")
        raise


def is_our_failure(code: str) -> bool:
    """Whether a span that ended with this code is marked as failed."""
    spec = CODES.get(code)
    return spec is not None and spec.kind in OUR_FAILURES


def is_sampled(traceparent: str) -> bool:
    """Whether whoever began the trace wants it recorded; False where there is none."""
    return bool(traceparent) and bool(int(traceparent[-2:], 16) & _SAMPLED_FLAG)
