"""The interface of tracing: spans with a name, a time and a parent.

A span is identified by its W3C `traceparent`, a short string that travels in values (request context, chunk, job), so
there is no global state and a span can be continued in another process. Without a collector `NO_TRACES` is used: it
records nothing, imports nothing, and passes the caller's `traceparent` through unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from service.domain.errors import CODES, Kind, ServiceError

Value = str | int | float | bool
# `server` answers a caller, `producer` sends work to a queue, `consumer` receives it from one.
SpanKind = Literal["internal", "server", "producer", "consumer"]
# Kinds of errors that mark a span as failed. Errors of the caller do not.
OUR_FAILURES = frozenset({Kind.INTERNAL, Kind.UNAVAILABLE, Kind.DEADLINE_EXCEEDED, Kind.STORAGE_FULL})
_SAMPLED_FLAG = 1


class Span(Protocol):
    """A span in progress. Attributes are exported with the prefix `avesformer.`."""

    @property
    def traceparent(self) -> str:
        """Return the id of this span for its children; empty without a parent and a collector."""
        ...

    def set(self, **attributes: Value) -> None:
        """Set attributes."""
        ...

    def fail(self, code: str) -> None:
        """Record the stable code of the failure."""
        ...

    def child(self, name: str) -> AbstractContextManager[Span]:
        """Return a child span that covers the block."""
        ...


class Traces(Protocol):
    """Creates spans. No call blocks, waits or raises."""

    @property
    def is_on(self) -> bool:
        """Return whether spans are recorded, so that callers can skip preparing them."""
        ...

    def span(
        self, name: str, *, parent: str = "", kind: SpanKind = "internal", **attributes: Value
    ) -> AbstractContextManager[Span]:
        """Return a span that covers the block. An exception that leaves the block marks it with the exception's code.

        Args:
            name: one of few names.
            parent: `traceparent` of the parent; empty starts a trace.
            kind: see `SpanKind`.
            attributes: attributes that are already known.
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
        """Record a span that has already ended, and return its `traceparent`.

        Args:
            name: one of few names.
            times_s: start and end on the process's monotonic clock.
            parent: see `span`.
            links: `traceparent` of related spans that are not its parent.
            code: stable code that it ended with.
            attributes: attributes of the span.
        """
        ...

    async def aclose(self) -> None:
        """Send the remaining spans within a bounded time."""
        ...


class _NoSpan:
    """No-op span that passes its parent's traceparent through."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def set(self, **attributes: Value) -> None:
        """Do nothing."""

    def fail(self, code: str) -> None:
        """Do nothing."""

    def child(self, name: str) -> AbstractContextManager[Span]:
        return self

    def __enter__(self) -> Span:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


class _NoTraces:
    """No-op tracing."""

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
        """Do nothing."""


NO_SPAN: Span = _NoSpan("")
NO_TRACES: Traces = _NoTraces()


@contextmanager
def failing(span: Span) -> Iterator[None]:
    """Record the code of an exception that leaves the block."""
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
    """Return whether a span that ended with this code is marked as failed."""
    spec = CODES.get(code)
    return spec is not None and spec.kind in OUR_FAILURES


def is_sampled(traceparent: str) -> bool:
    """Return whether the trace of this `traceparent` is sampled; False without a trace."""
    return bool(traceparent) and bool(int(traceparent[-2:], 16) & _SAMPLED_FLAG)
