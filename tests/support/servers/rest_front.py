"""A REST front on a real socket over a fake predictor, and the parts of it that tests look at."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from support.components.scripted_decoders import ScriptedDecoders

from service.batching.policy import BatchPolicy
from service.batching.segmenter import LocalSegmenter
from service.core.admission import Admission, AdmissionPolicy
from service.core.api_keys import ApiKeys
from service.core.pipeline import Pipeline, PipelinePolicy
from service.core.request_log import RequestLog
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.result import FrameMasks
from service.media.spool import Spool
from service.media.upload import Upload
from service.outbound.fetch import Fetcher, FetchPolicy
from service.ports import Predictor
from service.predictors.fake import FakePredictor, FakeTiming
from service.rest.app import EdgePolicy, create_app
from service.rest.connection.policy import ConnectionPolicy
from service.rest.connection.server import HttpServer, ServerPolicy
from service.rest.parts import Probes, RestParts, RestPolicy
from service.telemetry.metrics import Metrics

HANG_GUARD_S = 60.0


@dataclass(frozen=True)
class FrontSpec:
    """What differs between tests."""

    max_requests: int = 64
    max_waiting: int = 0
    max_open: int = 2048
    max_upload_bytes: int = 4 * 1024**2
    max_answer_bytes: int = 16 * 1024**2
    request_timeout_s: float = 60.0
    upload_min_bytes_per_s: int = 16_384
    spool_bytes: int = 64 * 1024**2
    stall_s: float = 30.0
    reader_min_bytes_per_s: int = 4096
    timing: FakeTiming = field(default_factory=FakeTiming)
    labels: tuple[str, ...] = ("sounding",)
    connections: ConnectionPolicy = field(default_factory=ConnectionPolicy)
    keys_file: Path | None = None
    edge: EdgePolicy = field(default_factory=EdgePolicy)
    is_warm: bool = True
    predictor: Predictor | None = None
    """In place of a fake one with `timing` and `labels`."""
    batches: BatchPolicy = field(default_factory=BatchPolicy)


@dataclass
class RestFront:
    """A listening front."""

    port: int
    client: httpx.AsyncClient
    metrics: Metrics
    spool: Spool
    admission: Admission
    decoders: ScriptedDecoders
    segmenter: LocalSegmenter
    server: HttpServer

    def counted(self, name: str, **labels: str) -> float:
        """A metric's value now; 0 where it was never touched."""
        return self.metrics.registry.get_sample_value(f"avesformer_{name}", labels) or 0.0


async def no_drawing(
    upload: Upload, frames: Iterable[FrameMasks], *, audio_track: int | None, deadline: Deadline
) -> AsyncGenerator[bytes, None]:
    """Stands for real decoders where a test has scripted ones."""
    raise ServiceError("decoder_gone", "This front has no decoders.")
    yield b""


@asynccontextmanager
async def rest_front(
    directory: Path, spec: FrontSpec | None = None, *, decoders: ScriptedDecoders | None = None
) -> AsyncIterator[RestFront]:
    """A front on a free port of the loopback, with an HTTP client for it."""
    spec = spec or FrontSpec()
    clock, metrics = time.monotonic, Metrics()
    async with AsyncExitStack() as stack:
        predictor = spec.predictor or FakePredictor(timing=spec.timing, labels=spec.labels)
        segmenter = LocalSegmenter(lambda: predictor, spec.batches, metrics=metrics, clock=clock)
        stack.push_async_callback(segmenter.aclose)
        if spec.is_warm:
            await segmenter.start()
        decoders = decoders or ScriptedDecoders()
        limits = AdmissionPolicy(spec.max_requests, max_waiting=spec.max_waiting, max_open=spec.max_open)
        admission = Admission(limits, metrics=metrics, clock=clock)
        spool = Spool(directory, max_bytes=spec.spool_bytes, on_received=admission.usage.add_bytes)
        pipeline = Pipeline(
            segmenter=segmenter,
            decoders=decoders,
            spool=spool,
            admission=admission,
            policy=PipelinePolicy(max_queued_bytes=1024**2),
            metrics=metrics,
            clock=clock,
        )

        async def describe_version() -> Mapping[str, object]:
            return {"service": "test"}

        def unready() -> ServiceError | None:
            if admission.is_draining:
                return ServiceError("draining", "draining")
            return None if segmenter.is_ready() else ServiceError("warming_up", "warming up")

        parts = RestParts(
            policy=RestPolicy(
                max_upload_bytes=spec.max_upload_bytes,
                max_answer_bytes=spec.max_answer_bytes,
                request_timeout_s=spec.request_timeout_s,
                upload_min_bytes_per_s=spec.upload_min_bytes_per_s,
                stall_s=spec.stall_s,
                reader_min_bytes_per_s=spec.reader_min_bytes_per_s,
            ),
            answering=pipeline,
            idempotent_answering=pipeline,
            admission=admission,
            request_log=RequestLog(metrics=metrics, clock=clock, usage=admission.usage),
            spool=spool,
            draw=no_drawing,
            fetch=Fetcher(FetchPolicy(), clock=clock),
            clock=clock,
            authenticate=ApiKeys(spec.keys_file).check,
            probes=Probes(unready, segmenter.is_healthy, describe_version, metrics),
        )
        server = HttpServer(
            create_app(parts, version="0", edge=spec.edge), ServerPolicy("127.0.0.1", 0, connections=spec.connections)
        )
        port = await server.start()
        stack.push_async_callback(server.stop)
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=HANG_GUARD_S)
        )
        yield RestFront(port, client, metrics, spool, admission, decoders, segmenter, server)
