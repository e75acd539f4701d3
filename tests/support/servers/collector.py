"""An OpenTelemetry collector for tests: OTLP over HTTP on loopback, spans kept in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2 as pb

HANG_S = 60.0


@dataclass(frozen=True)
class SeenSpan:
    """A span as it was received. `links` are span ids; times are nanoseconds since 1970."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start_ns: int
    end_ns: int
    links: frozenset[str]
    is_failed: bool
    attributes: dict[str, Any] = field(hash=False)


class Collector:
    """Listens from construction to `close`; `status` other than 200 refuses what comes."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.status = 200
        self.num_posts = 0

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                self._take(handler.path, handler.headers["Content-Type"], body)
                answer = ExportTraceServiceResponse().SerializeToString()
                handler.send_response(self.status)
                handler.send_header("Content-Type", "application/x-protobuf")
                handler.send_header("Content-Length", str(len(answer)))
                handler.end_headers()
                handler.wfile.write(answer)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def named(self, name: str, *, trace_id: str | None = None) -> list[SeenSpan]:
        """The spans of a name, in one trace or all."""
        return [span for span in list(self.spans) if span.name == name and trace_id in (None, span.trace_id)]

    def wait_for(self, is_there: Callable[[], Any]) -> None:
        """Until what was recorded has arrived."""
        end_s = time.monotonic() + HANG_S
        while not is_there():
            assert time.monotonic() < end_s, sorted({span.name for span in self.spans})
            time.sleep(0.02)

    def _take(self, path: str, content_type: str, body: bytes) -> None:
        assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
        self.num_posts += 1
        if self.status != 200:
            return
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_seen(service, span) for span in scope.spans]


def _seen(service: str, span: pb.Span) -> SeenSpan:
    return SeenSpan(
        service=service,
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        links=frozenset(link.span_id.hex() for link in span.links),
        is_failed=span.status.code == pb.Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
    )


def _values(attributes: list[KeyValue]) -> dict[str, Any]:
    return {cell.key: getattr(cell.value, cell.value.WhichOneof("value")) for cell in attributes}
