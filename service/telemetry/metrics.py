"""All metrics of the service, declared once on an injected registry (docs/contract.md, "Metrics").

Label sets are closed: transports, stable error codes, stages, reasons, and at most a hundred names of API keys. Request
ids and file names are never labels.
"""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

PREFIX = "avesformer_"
STAGES = ("upload", "decode", "queue", "predict", "encode")
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one process. Every component that counts receives this object."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.requests_total = self._counter("requests", "Requests ended, by stable code or ok.", "transport", "code")
        self.samples_total = self._counter("samples", "Samples segmented.")
        self.shed_total = self._counter("shed", "Requests refused before work began.", "reason")
        self.decode_failures_total = self._counter("decode_failures", "Uploads that did not decode.", "code")
        self.cache_lookups_total = self._counter("cache_lookups", "Result cache lookups: hit, miss, joined.", "outcome")
        self.worker_restarts_total = self._counter("worker_restarts", "Crashed workers that are live again.")
        self.redeliveries_total = self._counter("redeliveries", "Chunks delivered again after a worker's death.")
        self.dead_letters_total = self._counter("dead_letters", "Chunks given up on.")
        self.key_requests_total = self._counter("key_requests", "Requests by API key.", "key", "outcome")
        self.key_samples_total = self._counter("key_samples", "Samples segmented by API key.", "key")
        self.key_upload_bytes_total = self._counter("key_upload_bytes", "Bytes of uploads by API key.", "key")
        self.request_duration_seconds = self._histogram(
            "request_duration_seconds", "Whole requests.", _LATENCY_BUCKETS_S, "transport"
        )
        self.stage_duration_seconds = self._histogram(
            "stage_duration_seconds", "Time by stage.", _LATENCY_BUCKETS_S, "stage"
        )
        self.batch_size = self._histogram("batch_size", "Samples per device call, padding not counted.", _SIZE_BUCKETS)
        self.batch_requests = self._histogram("batch_requests", "Distinct requests per device call.", _SIZE_BUCKETS)
        self.batch_wait_seconds = self._histogram(
            "batch_wait_seconds", "Wait of a batch's oldest sample.", _LATENCY_BUCKETS_S
        )
        self.requests_in_flight = self._gauge("requests_in_flight", "Requests admitted and not ended.")
        self.places_taken = self._gauge("places_taken", "Requests that decode or wait for the device.")
        self.requests_waiting = self._gauge("requests_waiting", "Requests that wait for a place.")
        self.live_streams = self._gauge("live_streams", "Live streams open.")
        self.queue_depth = self._gauge("queue_depth", "Samples waiting for the device.")
        self.queue_oldest_seconds = self._gauge("queue_oldest_seconds", "Age of the oldest waiting sample.")
        self.worker_up = self._gauge("worker_up", "Device workers that answer.")
        self.device_memory_bytes = self._gauge("device_memory_bytes", "Memory in use on the device (0 on CPU).")
        self.build_info = self._gauge("build_info", "Always 1; versions as labels.", "version", "variant", "checkpoint")
        self.device_info = self._gauge(
            "device_info", "Always 1; the device of this process as labels.", "device", "dtype", "cuda", "driver"
        )

    def render(self) -> tuple[bytes, str]:
        """Return all metrics in the text format of Prometheus, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(PREFIX + name, text, labels, buckets=buckets, registry=self.registry)
