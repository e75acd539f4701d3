"""The methods on virtual time: slow senders, stalled readers, refusals, and what goes around a call."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry
from support.virtual_time import run_virtual, virtual_clock

from service.client.failures import grpc_error
from service.core.admission import Admission, AdmissionPolicy
from service.core.request_log import RequestLog
from service.domain.caller import ANONYMOUS, Caller
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, RequestContext
from service.domain.result import FrameMasks, Mask, Rle, Summary
from service.media.spool import Spool
from service.media.upload import Upload
from service.rpc.calls import Calls
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.servicer import Servicer, ServicerParts, ServicerPolicy
from service.telemetry.metrics import Metrics

OPTIONS = pb.SegmentRequest(options=pb.SegmentOptions())
POLICY = ServicerPolicy(max_upload_bytes=100_000, upload_min_bytes_per_s=1000, stall_s=30.0)


class AbortedError(Exception):
    """What `abort` raises, as grpc.aio does."""


@dataclass
class Rpc:
    """One call as the servicer sees it; `write_s` is how long the client takes to read a message."""

    metadata: tuple[tuple[str, str], ...] = ()
    time_left_s: float | None = None
    write_s: float = 0.0
    written: list[pb.SegmentResponse] = field(default_factory=list)
    initial: dict[str, str] | None = None
    error: ServiceError | None = None
    status: grpc.StatusCode | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self.metadata

    def peer(self) -> str:
        return "ipv6:%5B2001:db8::7%5D:5000"

    def time_remaining(self) -> float | None:
        return self.time_left_s

    async def send_initial_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.initial = dict(metadata)

    async def write(self, message: pb.SegmentResponse) -> None:
        await asyncio.sleep(self.write_s)
        self.written.append(message)

    async def abort(self, code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str | bytes], ...]) -> None:
        self.status, self.error = code, grpc_error(code, details, trailers)
        raise AbortedError


class Echo:
    """In place of the pipeline: one frame per started kilobyte of the upload, then the summary."""

    counts = "0"
    seen: RequestContext | None = None

    async def check(self, options: SegmentOptions) -> None:
        if options.labels:
            raise ServiceError("bad_option", "labels")

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        self.seen = context
        size = await upload.wait_for(10**9)
        mask = Mask("sounding", 0.5, 1, (0, 0, 1, 1), Rle((1, 1), self.counts))
        for index in range(-(-size // 1024)):
            yield FrameMasks(float(index), float(index), index, (mask,))
        yield Summary(0)


@dataclass
class Bench:
    """A servicer over an Echo in a folder."""

    directory: Path
    policy: ServicerPolicy = POLICY
    echo: Echo = field(default_factory=Echo)
    max_requests: int = 4

    def __post_init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.spool = Spool(self.directory, max_bytes=10**6)

    def authenticate(self, authorization: str | None) -> Caller:
        if authorization == "Bearer bad":
            raise ServiceError("unauthenticated", "Unknown key.")
        return ANONYMOUS

    async def run(self, requests: AsyncIterator[pb.SegmentRequest], rpc: Rpc) -> Rpc:
        """Segment to its end, however it ends."""
        admission = Admission(AdmissionPolicy(self.max_requests), metrics=self.metrics, clock=virtual_clock)
        request_log = RequestLog(metrics=self.metrics, clock=virtual_clock)
        calls = Calls(request_log=request_log, authenticate=self.authenticate, clock=virtual_clock)
        parts = ServicerParts(calls, admission, self.echo, self.spool, None, None, virtual_clock)
        with contextlib.suppress(AbortedError):
            await Servicer(parts, self.policy).Segment(requests, rpc)
        assert self.spool.used_bytes == 0
        assert admission.in_flight == 0
        return rpc

    def counted(self, code: str) -> float:
        labels = {"transport": "grpc", "code": code}
        return self.metrics.registry.get_sample_value("avesformer_requests_total", labels) or 0


async def sent(*items: pb.SegmentRequest | float) -> AsyncIterator[pb.SegmentRequest]:
    """Messages, with pauses in seconds between them."""
    for item in items:
        if isinstance(item, pb.SegmentRequest):
            yield item
        else:
            await asyncio.sleep(item)


def chunk(size: int) -> pb.SegmentRequest:
    return pb.SegmentRequest(chunk=bytes(size))


def test_an_upload_is_answered_and_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rpc = run_virtual(bench.run(sent(OPTIONS, chunk(1500), chunk(1500)), Rpc((("x-request-id", "mine"),))))
    assert [message.WhichOneof("payload") for message in rpc.written] == ["frame", "frame", "frame", "summary"]
    assert rpc.initial == {"x-request-id": "mine"}
    assert bench.echo.seen is not None
    assert bench.echo.seen.request_id == "mine"
    assert bench.counted("ok") == 1


@pytest.mark.parametrize(
    "items",
    [
        (60.0,),
        (OPTIONS, 60.0),
        (OPTIONS, chunk(5000), 60.0),
        (OPTIONS, *[chunk(90), 0.1] * 1000),
        (OPTIONS, chunk(50_000), 9.0, chunk(1), 12.0, chunk(1)),
    ],
)
def test_slow_uploads_are_cut(tmp_path: Path, items: tuple[pb.SegmentRequest | float, ...]) -> None:
    bench = Bench(tmp_path)
    rpc = run_virtual(bench.run(sent(*items), Rpc()))
    assert rpc.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert rpc.error is not None
    assert rpc.error.code == "slow_upload"
    assert bench.counted("slow_upload") == 1


def test_steady_uploads_are_not_cut(tmp_path: Path) -> None:
    rpc = run_virtual(Bench(tmp_path).run(sent(OPTIONS, *[chunk(110), 0.1] * 500), Rpc()))
    assert rpc.error is None
    assert rpc.written[-1].HasField("summary")


@pytest.mark.parametrize(
    ("min_bytes_per_s", "write_s", "is_cut"), [(0, 29.0, False), (0, 31.0, True), (1, 29.0, False), (100, 4.0, True)]
)
def test_a_reader_that_stalls_or_falls_below_the_least_rate_is_cut(
    tmp_path: Path, min_bytes_per_s: int, write_s: float, is_cut: bool
) -> None:
    """A message has about 50 bytes."""
    policy = replace(POLICY, reader_min_bytes_per_s=min_bytes_per_s)
    bench = Bench(tmp_path, policy)
    rpc = run_virtual(bench.run(sent(OPTIONS, chunk(20_000)), Rpc(write_s=write_s)))
    assert (rpc.status is grpc.StatusCode.DEADLINE_EXCEEDED) == is_cut
    assert (rpc.error is not None and rpc.error.code == "slow_reader") == is_cut
    assert bench.counted("slow_reader") == is_cut
    assert len(rpc.written) < 20 if is_cut else len(rpc.written) == 21


def test_the_callers_address_is_that_of_its_connection(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    run_virtual(bench.run(sent(OPTIONS, chunk(10)), Rpc()))
    assert bench.echo.seen is not None
    assert bench.echo.seen.caller == Caller(address="2001:db8::7")


def kinds(rpc: Rpc) -> list[str | None]:
    return [message.WhichOneof("payload") for message in rpc.written]


def test_a_silent_answer_beats_every_ten_seconds(tmp_path: Path) -> None:
    steady = [item for _ in range(35) for item in (chunk(2000), 1.0)]
    rpc = run_virtual(Bench(tmp_path).run(sent(OPTIONS, *steady), Rpc()))
    assert kinds(rpc)[:3] == ["heartbeat"] * 3
    assert kinds(rpc)[3:] == ["frame"] * 69 + ["summary"]


def test_a_reader_that_reads_slowly_gets_no_heartbeats_between(tmp_path: Path) -> None:
    policy = replace(POLICY, reader_min_bytes_per_s=0)
    rpc = run_virtual(Bench(tmp_path, policy).run(sent(OPTIONS, chunk(5000)), Rpc(write_s=29.0)))
    assert kinds(rpc) == ["frame"] * 5 + ["summary"]


@pytest.mark.parametrize(("resume_from_index", "indexes"), [(0, [0, 1, 2, 3, 4]), (3, [3, 4]), (5, []), (99, [])])
def test_an_interrupted_answer_is_resumed(tmp_path: Path, resume_from_index: int, indexes: list[int]) -> None:
    options = pb.SegmentRequest(options=pb.SegmentOptions(resume_from_index=resume_from_index))
    rpc = run_virtual(Bench(tmp_path).run(sent(options, chunk(5000)), Rpc()))
    assert [message.frame.index for message in rpc.written if message.HasField("frame")] == indexes
    assert rpc.written[-1].HasField("summary")


def test_a_negative_index_to_resume_from_is_a_bad_option(tmp_path: Path) -> None:
    options = pb.SegmentRequest(options=pb.SegmentOptions(resume_from_index=-1))
    rpc = run_virtual(Bench(tmp_path).run(sent(options, chunk(10)), Rpc()))
    assert rpc.error is not None
    assert rpc.error.code == "bad_option"


def test_a_frame_over_the_message_limit_is_a_clear_error(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.echo.counts = "0" * (4 * 1024**2)
    rpc = run_virtual(bench.run(sent(OPTIONS, chunk(10)), Rpc()))
    assert rpc.error is not None
    assert rpc.error.code == "answer_too_large"


@pytest.mark.parametrize(
    ("items", "metadata", "code"),
    [
        ((OPTIONS, chunk(1)), (("authorization", "Bearer bad"),), "unauthenticated"),
        ((OPTIONS, OPTIONS), (), "malformed_body"),
        ((chunk(1),), (), "malformed_body"),
        ((OPTIONS,), (), "missing_file"),
        ((OPTIONS, chunk(200_000)), (), "upload_too_large"),
        ((pb.SegmentRequest(options=pb.SegmentOptions(labels=["x"])),), (), "bad_option"),
    ],
)
def test_refusals(
    tmp_path: Path, items: tuple[pb.SegmentRequest, ...], metadata: tuple[tuple[str, str], ...], code: str
) -> None:
    bench = Bench(tmp_path)
    rpc = run_virtual(bench.run(sent(*items), Rpc(metadata)))
    assert rpc.error is not None
    assert rpc.error.code == code
    assert bench.counted(code) == 1


@pytest.mark.parametrize("code", ["unauthenticated", "bad_option"])
def test_a_refused_call_is_never_let_in(tmp_path: Path, code: str) -> None:
    """Its client has sent no chunk: the initial metadata, which it waits for, did not come."""
    options = pb.SegmentRequest(options=pb.SegmentOptions(labels=["x"]))
    metadata = (("authorization", "Bearer bad"),) if code == "unauthenticated" else ()
    rpc = run_virtual(Bench(tmp_path).run(sent(options), Rpc(metadata)))
    assert rpc.initial is None


def test_the_deadline_is_the_callers(tmp_path: Path) -> None:
    async def deadline_of(time_left_s: float | None) -> float:
        bench = Bench(tmp_path)
        started_s = virtual_clock()
        await bench.run(sent(OPTIONS, chunk(1)), Rpc(time_left_s=time_left_s))
        assert bench.echo.seen is not None
        return bench.echo.seen.deadline.at_s - started_s

    assert run_virtual(deadline_of(5.0)) == pytest.approx(5.0, abs=0.01)
    for none in (None, 9.2e18):
        assert run_virtual(deadline_of(none)) == float("inf")


def test_what_nobody_foresaw_is_internal_and_tells_nothing(tmp_path: Path) -> None:
    class Broken(Echo):
        async def check(self, options: SegmentOptions) -> None:
            raise RuntimeError("/root/secret")

    bench = Bench(tmp_path, echo=Broken())
    rpc = run_virtual(bench.run(sent(OPTIONS), Rpc()))
    assert rpc.status is grpc.StatusCode.INTERNAL
    assert rpc.error is not None
    assert "secret" not in rpc.error.detail
