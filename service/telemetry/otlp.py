"""Export of spans to an OpenTelemetry collector: OTLP over HTTP with protobuf bodies.

The only module that imports the OpenTelemetry SDK, and only if a collector is configured. Ended spans wait in a bounded
queue for a thread of their own, which sends them in batches. Spans that cannot be sent are dropped. An unreachable
collector costs one log line when it fails and one when it recovers, and never affects a request.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import httpx
from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from service.domain.deadline import Clock
from service.telemetry.traces import Span, SpanKind, Value, failing, is_our_failure

logger = logging.getLogger(__name__)

# OTLP specification: appended to the base address of the collector.
PATH = "/v1/traces"
_SCOPE = "avesformer"
_MAX_QUEUED_SPANS = 4096
_MAX_BATCH_SPANS = 512
_EVERY_MS = 2000.0
_SEND_TIMEOUT_S = 5.0
# As many as the largest batch has samples, each of which may belong to another request.
_MAX_LINKS = 1024
# Longest wait for the collector at shutdown.
_CLOSE_S = 3.0
_KINDS: Mapping[SpanKind, api.SpanKind] = {
    "internal": api.SpanKind.INTERNAL,
    "server": api.SpanKind.SERVER,
    "producer": api.SpanKind.PRODUCER,
    "consumer": api.SpanKind.CONSUMER,
}


class OtlpTraces:
    """`traces.Traces` that exports to a collector.

    Args:
        endpoint: base address of the collector, `http://host:4318`.
        service: role of this process, `avesformer-front` or `avesformer-worker`.
        version: version of the service.
        clock: seconds, monotonic; the clock of the times passed to `record`.
    """

    is_on = True

    def __init__(self, endpoint: str, *, service: str, version: str, clock: Clock) -> None:
        self._clock = clock
        resource = Resource(
            {"service.name": service, "service.version": version, "service.instance.id": uuid.uuid4().hex}
        )
        # A caller's decision not to sample is respected; all other traces are recorded.
        self._provider = TracerProvider(
            sampler=ParentBased(ALWAYS_ON),
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_links=_MAX_LINKS),
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                HttpSpanExporter(endpoint),
                max_queue_size=_MAX_QUEUED_SPANS,
                schedule_delay_millis=_EVERY_MS,
                max_export_batch_size=_MAX_BATCH_SPANS,
            )
        )
        self._tracer = self._provider.get_tracer(_SCOPE, version)

    @contextmanager
    def span(self, name: str, *, parent: str = "", kind: SpanKind = "internal", **attributes: Value) -> Iterator[Span]:
        """See `Traces.span`."""
        inner = self._tracer.start_span(name, _context(parent), _KINDS[kind], _named(attributes))
        span = _Span(self, inner)
        try:
            with failing(span):
                yield span
        finally:
            inner.end()

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
        """See `Traces.record`."""
        to_wall_ns = time.time_ns() - int(self._clock() * 1e9)
        start_ns, end_ns = (to_wall_ns + int(at_s * 1e9) for at_s in times_s)
        linked = [api.Link(_span_context(link)) for link in links]
        inner = self._tracer.start_span(
            name, _context(parent), attributes=_named(attributes), links=linked, start_time=start_ns
        )
        span = _Span(self, inner)
        if code != "ok":
            span.fail(code)
        inner.end(end_ns)
        return span.traceparent

    async def aclose(self) -> None:
        """Send the remaining spans for at most `_CLOSE_S`, so that a hanging collector cannot block the shutdown."""
        closing = threading.Thread(target=self._provider.shutdown, name="close traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _CLOSE_S)


class _Span:
    """A span that is being recorded."""

    def __init__(self, traces: OtlpTraces, inner: api.Span) -> None:
        self._traces = traces
        self._inner = inner
        context = inner.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}"

    def set(self, **attributes: Value) -> None:
        self._inner.set_attributes(_named(attributes))

    def fail(self, code: str) -> None:
        self.set(code=code)
        if is_our_failure(code):
            self._inner.set_status(api.Status(api.StatusCode.ERROR, code))

    def child(self, name: str) -> AbstractContextManager[Span]:
        return self._traces.span(name, parent=self.traceparent)


class HttpSpanExporter(SpanExporter):
    """Posts batches of spans. Used by the SDK's thread only."""

    def __init__(self, endpoint: str) -> None:
        self._url = endpoint.rstrip("/") + PATH
        # Proxy variables of the environment are ignored, as for webhooks: the operator chose the address.
        self._client = httpx.Client(timeout=_SEND_TIMEOUT_S, trust_env=False)
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send one batch. A batch that the collector does not accept is dropped."""
        body = encode_spans(spans).SerializeToString()
        try:
            self._post(body).raise_for_status()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if not self._is_away:
                extra = {"collector": self._url, "reason": type(error).__name__}
                logger.warning("the collector does not accept traces; spans are dropped until it does", extra=extra)
            self._is_away = True
            return SpanExportResult.FAILURE
        if self._is_away:
            logger.info("the collector accepts traces again")
        self._is_away = False
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the connection."""
        self._client.close()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return True: the exporter queues nothing."""
        return True

    def _post(self, body: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/x-protobuf"}
        try:
            return self._client.post(self._url, content=body, headers=headers)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # The collector closed an idle connection while the request was written; retry once on a new one.
            return self._client.post(self._url, content=body, headers=headers)


def _context(parent: str) -> Context:
    """Return the SDK's context for a parent. An empty one keeps the SDK from looking for an ambient span."""
    if not parent:
        return Context()
    return api.set_span_in_context(api.NonRecordingSpan(_span_context(parent)), Context())


def _span_context(traceparent: str) -> api.SpanContext:
    _, trace_id, span_id, flags = traceparent.split("-")
    return api.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=api.TraceFlags(int(flags, 16))
    )


def _named(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {f"avesformer.{name}": value for name, value in attributes.items()}
