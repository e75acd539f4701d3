"""Metrics and one INFO line for every request on every transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from service.core.usage import KeyUsage
from service.domain.caller import ANONYMOUS, Caller
from service.domain.deadline import Clock
from service.domain.errors import CODES, Kind, ServiceError
from service.domain.request import Transport
from service.domain.result import ANSWER_DECIMALS
from service.telemetry.logs import request_id_var
from service.telemetry.metrics import Metrics
from service.telemetry.traces import NO_SPAN, NO_TRACES, Span, SpanKind, Traces

logger = logging.getLogger("avesformer.request")


@dataclass(slots=True)
class RequestRecord:
    """Facts of a request for its log line; transports fill them in. `span` is the request's own."""

    code: str = "ok"
    num_samples: int = 0
    upload_bytes: int = 0
    is_body_read: bool = False
    timings_s: dict[str, float] = field(default_factory=dict)
    span: Span = NO_SPAN
    caller: Caller = ANONYMOUS


class RequestLog:
    """Counts, logs and traces every request."""

    def __init__(
        self, *, metrics: Metrics, clock: Clock, traces: Traces = NO_TRACES, usage: KeyUsage | None = None
    ) -> None:
        self._usage = usage
        self._metrics = metrics
        self._clock = clock
        self._traces = traces

    @contextmanager
    def record(
        self, *, request_id: str, transport: Transport, traceparent: str = "", operation: str = "request"
    ) -> Iterator[RequestRecord]:
        """Record a whole request. This context manager is the outermost of a request.

        Args:
            request_id: names it in the log.
            transport: labels its metrics.
            traceparent: parent span; empty if the caller gave none.
            operation: name of its span: route or method, one of few.

        Raises:
            ServiceError: any error of the body. An unexpected exception becomes `internal` and is logged with its
                traceback.
        """
        kind: SpanKind = "consumer" if transport == "job" else "server"
        attributes = {"request_id": request_id, "transport": transport}
        with (
            self._traces.span(operation, parent=traceparent, kind=kind, **attributes) as span,
            self._recorded(RequestRecord(span=span), request_id, transport) as record,
        ):
            yield record

    @contextmanager
    def _recorded(self, record: RequestRecord, request_id: str, transport: Transport) -> Iterator[RequestRecord]:
        token = request_id_var.set(request_id)
        started_s = self._clock()
        try:
            yield record
        except ServiceError as error:
            record.code = error.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            record.code = "client_gone"
            raise
        except Exception as error:
            record.code = "internal"
            logger.exception("request failed unexpectedly")
            detail = "Something failed inside the service; the operator finds it in the log by this request id."
            raise ServiceError("internal", detail) from error
        finally:
            self._end(record, transport, self._clock() - started_s)
            request_id_var.reset(token)

    def _end(self, record: RequestRecord, transport: Transport, duration_s: float) -> None:
        self._metrics.requests_total.labels(transport, record.code).inc()
        self._metrics.request_duration_seconds.labels(transport).observe(duration_s)
        if self._usage is not None:
            self._usage.add_request(record.caller, outcome=_outcome(record.code))
        record.span.set(num_samples=record.num_samples, upload_bytes=record.upload_bytes)
        extra: dict[str, object] = {
            "transport": transport,
            "code": record.code,
            "duration_s": round(duration_s, ANSWER_DECIMALS),
            "num_samples": record.num_samples,
            "upload_bytes": record.upload_bytes,
            "timings_s": record.timings_s,
        }
        if record.caller.key_id:
            extra["key"] = record.caller.name or record.caller.key_id
        if record.span.traceparent:
            extra["trace_id"] = record.span.traceparent.split("-")[1]
        logger.info("request ended", extra=extra)


def _outcome(code: str) -> str:
    if code == "ok":
        return "ok"
    return "refused" if CODES[code].kind is Kind.OVERLOADED else "failed"
