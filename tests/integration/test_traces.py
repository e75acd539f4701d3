"""Traces of real requests at a real collector: one process, front and worker across Redis, and what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from grpc import aio
from pydantic import ValidationError
from support.inputs.clips import make_clip
from support.servers.collector import Collector, SeenSpan
from support.servers.front import RunningFront, running_front
from support.servers.redis_server import RedisServer
from support.servers.worker_process import WorkerProcess

from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub
from service.settings import Settings

HANG_S = 60.0
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-00"
# Of opentelemetry.proto.trace.v1.Span.SpanKind.
SERVER, CONSUMER = 2, 5
FPS = 4


@pytest.fixture(scope="module")
def clip() -> bytes:
    """3 s of picture and sound: 11 samples at `FPS`."""
    return make_clip(num_frames=75, flash_frames=frozenset({30}))


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


async def post(front: RunningFront, clip: bytes, route: str = "segment", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client:
        return await client.post(
            f"/v1/{route}?fps={FPS}", content=clip, headers={"Content-Type": "video/mp4", **headers}
        )


def one(spans: list[SeenSpan]) -> SeenSpan:
    assert len(spans) == 1, spans
    return spans[0]


def assert_stages(collector: Collector, trace_id: str, *, under: list[SeenSpan]) -> None:
    """Each of these chunks or deliveries waited, was predicted in a batch that says so, and was encoded."""
    num_encoded = 0
    for chunk in under:
        stages = {span.name: span for span in collector.spans if span.parent_id == chunk.span_id}
        assert {"queue", "predict", "encode"} <= set(stages)
        assert {span.trace_id for span in stages.values()} == {trace_id}
        assert stages["queue"].end_ns <= stages["predict"].end_ns <= stages["encode"].end_ns <= chunk.end_ns
        batches = [span for span in collector.named("batch") if span.span_id in stages["predict"].links]
        assert chunk.span_id in one(batches).links
        num_encoded += sum(
            span.attributes["avesformer.num_samples"]
            for span in collector.named("encode")
            if span.parent_id == chunk.span_id
        )
    assert num_encoded == sum(chunk.attributes.get("avesformer.num_samples", 0) for chunk in under)


async def test_one_process_tells_upload_to_encode_within_the_callers_trace(collector: Collector, clip: bytes) -> None:
    async with running_front(otlp_endpoint=collector.url) as front:
        answer = await post(front, clip, traceparent=CALLER, **{"X-Request-ID": "mine"})
    assert answer.status_code == 200
    request = one(collector.named("POST /segment"))
    assert (request.trace_id, request.parent_id, request.kind) == (TRACE_ID, SPAN_ID, SERVER)
    assert request.service == "avesformer-front"
    assert request.attributes["avesformer.request_id"] == "mine"
    assert request.attributes["avesformer.upload_bytes"] == len(clip)
    assert request.attributes["avesformer.is_cached"] is False
    assert request.attributes["avesformer.num_samples"] == len(answer.json()["frames"])
    upload, decode = one(collector.named("upload")), one(collector.named("decode"))
    chunks = collector.named("chunk")
    for part in (upload, decode, *chunks):
        assert (part.trace_id, part.parent_id) == (TRACE_ID, request.span_id)
        assert request.start_ns <= part.start_ns <= part.end_ns <= request.end_ns
    assert upload.end_ns <= decode.start_ns
    assert decode.attributes["avesformer.num_chunks"] == len(chunks) > 1
    assert_stages(collector, TRACE_ID, under=chunks)
    assert all(batch.trace_id != TRACE_ID and not batch.parent_id for batch in collector.named("batch"))


async def test_grpc_continues_the_callers_trace_and_without_one_begins_its_own(
    collector: Collector, clip: bytes
) -> None:
    async def requests() -> AsyncIterator[pb.SegmentRequest]:
        yield pb.SegmentRequest(options=pb.SegmentOptions(fps=FPS))
        yield pb.SegmentRequest(chunk=clip)

    async with running_front(otlp_endpoint=collector.url) as front, aio.insecure_channel(front.grpc_target) as channel:
        for metadata in ([("traceparent", CALLER)], [], [("traceparent", "00-garbage")]):
            call = SegmentationStub(channel).Segment(requests(), metadata=metadata, timeout=HANG_S)
            assert [message async for message in call]
    given, fresh, garbage = sorted(collector.named("Segmentation/Segment"), key=lambda span: span.start_ns)
    assert (given.trace_id, given.parent_id) == (TRACE_ID, SPAN_ID)
    assert len({given.trace_id, fresh.trace_id, garbage.trace_id}) == 3
    assert fresh.parent_id == garbage.parent_id == ""
    for request in (given, fresh):
        names = {span.name for span in collector.spans if span.trace_id == request.trace_id}
        assert {"upload", "decode", "chunk", "queue", "predict", "encode"} <= names


async def test_a_trace_that_its_caller_does_not_sample_is_not_sent(collector: Collector, clip: bytes) -> None:
    async with running_front(otlp_endpoint=collector.url) as front:
        assert (await post(front, clip, traceparent=UNSAMPLED)).status_code == 200
        assert (await post(front, b"not a clip")).status_code == 415
    assert collector.named("POST /segment")[0].attributes["avesformer.code"] == "not_mp4"
    assert not [span for span in collector.spans if span.trace_id == TRACE_ID]
    assert not collector.named("batch")


async def test_what_a_caller_did_wrong_is_told_and_no_failure(collector: Collector) -> None:
    async with running_front(otlp_endpoint=collector.url) as front:
        assert (await post(front, make_clip(num_frames=5, sound=None))).status_code == 422
        front.front.core.admission.start_draining()
        assert (await post(front, b"any")).status_code == 503
    wrong, ours = sorted(collector.named("POST /segment"), key=lambda span: span.start_ns)
    assert (wrong.attributes["avesformer.code"], wrong.is_failed) == ("no_audio", False)
    assert (ours.attributes["avesformer.code"], ours.is_failed) == ("draining", True)
    assert one(collector.named("decode")).attributes["avesformer.code"] == "no_audio"


async def test_a_job_is_part_of_the_request_that_brought_it(collector: Collector, clip: bytes, tmp_path: Path) -> None:
    async with running_front(otlp_endpoint=collector.url, state_dir=tmp_path) as front:
        accepted = await post(front, clip, "jobs", traceparent=CALLER)
        assert accepted.status_code == 202
        async with httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as client, asyncio.timeout(HANG_S):
            while (await client.get(accepted.headers["location"])).json()["state"] != "done":
                await asyncio.sleep(0.05)
    request, job = one(collector.named("POST /jobs")), one(collector.named("job"))
    assert (job.trace_id, job.parent_id, job.kind) == (TRACE_ID, request.span_id, CONSUMER)
    assert job.attributes["avesformer.job_id"] == accepted.json()["job_id"]
    assert_stages(collector, TRACE_ID, under=collector.named("chunk"))
    assert {span.trace_id for span in collector.named("GET /jobs/{job_id}")}.isdisjoint({TRACE_ID})


@pytest.mark.redis
async def test_a_workers_spans_join_the_trace_across_redis(
    collector: Collector, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVES_OTLP_ENDPOINT", collector.url)
    with RedisServer(tmp_path / "redis") as server, WorkerProcess(server.url) as worker:
        await worker.wait_ready()
        async with running_front(redis_url=server.url, state_dir=tmp_path) as front:
            answers = await asyncio.gather(*(post(front, clip, traceparent=CALLER) for _ in range(2)))
        worker.signal(15)
        assert worker.wait() == 0  # what it had recorded is sent before it ends
    assert [answer.status_code for answer in answers] == [200, 200]
    requests, chunks = collector.named("POST /segment"), collector.named("chunk")
    assert {chunk.parent_id for chunk in chunks} == {request.span_id for request in requests}
    deliveries = collector.named("delivery")
    assert {span.parent_id for span in deliveries} == {chunk.span_id for chunk in chunks}
    assert {(span.service, span.trace_id, span.kind) for span in deliveries} == {
        ("avesformer-worker", TRACE_ID, CONSUMER)
    }
    assert all(span.attributes["avesformer.attempt"] == 1 for span in deliveries)
    by_id = {chunk.span_id: chunk for chunk in chunks}
    for delivery in deliveries:
        delivery.attributes["avesformer.num_samples"] = by_id[delivery.parent_id].attributes["avesformer.num_samples"]
    assert_stages(collector, TRACE_ID, under=deliveries)
    assert {span.service for span in collector.named("batch")} == {"avesformer-worker"}


@pytest.mark.parametrize("is_silent", [False, True], ids=["refuses", "hangs"])
async def test_a_collector_in_trouble_costs_at_most_one_line_and_no_request(
    is_silent: bool, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not is_silent:
            listener.close()
        async with asyncio.timeout(HANG_S), running_front(otlp_endpoint=url) as front:
            for _ in range(3):
                assert (await post(front, clip)).status_code == 200
    warnings = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert [entry.name for entry in warnings if not is_silent] == ["service.telemetry.otlp"] * (not is_silent)
    assert {entry.name for entry in warnings} <= {"service.telemetry.otlp"}


@pytest.mark.parametrize(
    "given",
    ["collector:4318", "ftp://collector", "http://", "http://:4318", "http://c:port", "http://[::1", "http://key@c"],
)
def test_an_address_that_is_none_is_refused_at_the_start(given: str) -> None:
    with pytest.raises(ValidationError, match="otlp_endpoint"):
        Settings(otlp_endpoint=given)


async def test_a_collector_that_comes_back_is_used_again(
    collector: Collector, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    collector.status = 503
    async with running_front(otlp_endpoint=collector.url) as front:
        assert (await post(front, clip)).status_code == 200
        await asyncio.to_thread(collector.wait_for, lambda: collector.num_posts)
        collector.status = 200
        assert (await post(front, clip)).status_code == 200
        await asyncio.to_thread(collector.wait_for, lambda: collector.named("POST /segment"))
    # A front of an earlier test may still flush to a collector that is gone.
    own = [entry for entry in caplog.records if getattr(entry, "collector", collector.url).startswith(collector.url)]
    told = [entry.getMessage() for entry in own if entry.getMessage().startswith("the collector")]
    assert told == [
        "the collector does not accept traces; spans are dropped until it does",
        "the collector accepts traces again",
    ]


def test_without_a_collector_the_tracing_sdk_is_not_even_imported() -> None:
    code = """\
import asyncio, sys
from support.servers.front import running_front

async def main():
    async with running_front():
        pass

asyncio.run(main())
ours = ("opentelemetry.sdk.trace", "opentelemetry.exporter", "opentelemetry.proto", "service.telemetry.otlp")
found = sorted(name for name in sys.modules if name.startswith(ours))
assert not found, found
"""
    tests = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=tests, env={"PYTHONPATH": f"{tests}:{tests.parent}"}, check=True)
