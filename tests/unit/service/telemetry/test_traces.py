"""What is recorded of batches and requests, and what is believed of a caller's header."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from support.components.chunks import FakeClock, make_chunk

from service.batching.device import BatchOutcome
from service.batching.sample_queue import PendingChunk, SampleSlice
from service.batching.traces import BatchTraces
from service.core.request_log import RequestLog
from service.domain.errors import CODES, ServiceError
from service.domain.request import accept_traceparent
from service.telemetry.metrics import Metrics
from service.telemetry.traces import NO_TRACES, failing, is_our_failure, is_sampled

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        (GIVEN, GIVEN),
        (f"00-{TRACE_ID}-{SPAN_ID}-00", f"00-{TRACE_ID}-{SPAN_ID}-00"),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01", GIVEN),
        (f"cc-{TRACE_ID}-{SPAN_ID}-01-what-the-future-will-be-like", GIVEN),
        (f"00-{TRACE_ID}-{SPAN_ID}-01-more", ""),
        (f"ff-{TRACE_ID}-{SPAN_ID}-01", ""),
        (f"00-{'0' * 32}-{SPAN_ID}-01", ""),
        (f"00-{TRACE_ID}-{'0' * 16}-01", ""),
        (GIVEN.upper(), ""),
        (f"{GIVEN}\n", ""),
        (f" {GIVEN}", ""),
        (GIVEN.replace("-", "_"), ""),
        ("٠" * 2 + GIVEN[2:], ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_callers_traceparent_is_taken_by_the_standard_or_not_at_all(given: str | None, accepted: str) -> None:
    assert accept_traceparent(given) == accepted


def test_only_the_flag_says_whether_a_trace_is_sampled() -> None:
    assert is_sampled(GIVEN)
    assert is_sampled(GIVEN[:-2] + "03")
    assert not is_sampled(GIVEN[:-2] + "02")
    assert not is_sampled("")


def test_failures_are_the_services_own() -> None:
    ours = {code for code in CODES if is_our_failure(code)}
    assert {"internal", "backend_down", "draining", "deadline_exceeded", "storage_full"} <= ours
    assert not ours & {"broken", "no_audio", "client_gone", "queue_full", "bad_option", "job_not_found"}
    assert not is_our_failure("ok")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceError("broken", "x"), "broken"),
        (asyncio.CancelledError(), "client_gone"),
        (RuntimeError("x"), "internal"),
        (KeyboardInterrupt(), "internal"),
    ],
)
def test_what_leaves_a_block_fails_its_span(error: BaseException, code: str) -> None:
    span = Recorded("part", "")
    with pytest.raises(type(error)), failing(span):
        raise error
    assert span.code == code


def test_without_a_collector_the_callers_trace_still_travels_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="avesformer.request")
    request_log = RequestLog(metrics=Metrics(), clock=FakeClock())
    assert not NO_TRACES.is_on
    told = request_log.record(request_id="r1", transport="rest", traceparent=GIVEN)
    with told as record, record.span.child("upload") as upload:
        assert upload.traceparent == record.span.traceparent == GIVEN
    with request_log.record(request_id="r2", transport="rest"):
        pass
    first, second = caplog.records
    assert first.trace_id == TRACE_ID
    assert not hasattr(second, "trace_id")


@dataclass
class Recorded:
    """A span that was told."""

    name: str
    parent: str
    times_s: tuple[float, float] = (0.0, 0.0)
    links: list[str] = field(default_factory=list)
    code: str = "ok"
    told: dict = field(default_factory=dict)
    traceparent: str = ""

    def set(self, **attributes) -> None:
        self.told |= attributes

    def fail(self, code: str) -> None:
        self.code = code

    @contextmanager
    def child(self, name: str):
        yield Recorded(name, self.traceparent)


class RecordingTraces:
    """Keeps what was recorded."""

    is_on = True

    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    def record(self, name, times_s, *, parent="", links=(), code="ok", **told) -> str:
        traceparent = f"00-{'9' * 32}-{len(self.spans) + 1:016x}-01"
        self.spans.append(Recorded(name, parent, times_s, list(links), code, told, traceparent))
        return traceparent

    def of(self, name: str) -> list[Recorded]:
        return [span for span in self.spans if span.name == name]


def pending(request_id: str, *, number: int, flags: str = "01", num: int = 2, arrived_s: float = 1.0) -> PendingChunk:
    chunk = replace(make_chunk(request_id, num, size_px=16), traceparent=f"00-{'a' * 32}-{number:016x}-{flags}")
    return PendingChunk(chunk, arrived_s, future=asyncio.Future())


def rows(num: int) -> np.ndarray:
    return np.zeros((num, 1, 4, 4), np.float32)


async def test_a_batch_links_to_its_chunks_and_they_to_it() -> None:
    traces = RecordingTraces()
    one, two, silent = pending("one", number=1), pending("two", number=2, num=3), pending("three", number=3, flags="00")
    results = [(SampleSlice(each, 0, len(each.frames)), rows(len(each.frames))) for each in (one, two, silent)]
    results[1] = (results[1][0], ServiceError("internal", "guilty"))
    BatchTraces(traces).predicted(BatchOutcome(results, predict_s=0.5), ended_s=4.0)
    (batch,) = traces.of("batch")
    assert batch.links == [one.chunk.traceparent, two.chunk.traceparent]
    assert batch.told == {"num_samples": 7, "num_requests": 3}
    assert (batch.parent, batch.times_s) == ("", (3.5, 4.0))
    assert [(span.parent, span.times_s) for span in traces.of("queue")] == [
        (one.chunk.traceparent, (1.0, 3.5)),
        (two.chunk.traceparent, (1.0, 3.5)),
    ]
    assert [(span.parent, span.code, span.links) for span in traces.of("predict")] == [
        (one.chunk.traceparent, "ok", [batch.traceparent]),
        (two.chunk.traceparent, "internal", [batch.traceparent]),
    ]


async def test_slices_of_one_chunk_in_a_batch_are_told_once_with_their_worst_end() -> None:
    traces = RecordingTraces()
    chunk = pending("one", number=1, num=4)
    parts = [SampleSlice(chunk, 0, 2), SampleSlice(chunk, 2, 4)]
    outcome = BatchOutcome([(parts[0], ServiceError("internal", "guilty")), (parts[1], rows(2))], 0.5)
    BatchTraces(traces).predicted(outcome, ended_s=4.0)
    (predict,) = traces.of("predict")
    assert predict.code == "internal"


async def test_encoding_is_told_one_slice_after_the_other() -> None:
    traces = RecordingTraces()
    one, silent, two = pending("one", number=1), pending("x", number=2, flags="00"), pending("two", number=3)
    pieces = [SampleSlice(each, 0, 2) for each in (one, silent, two)]
    BatchTraces(traces).encoded(pieces, [0.5, 0.25, 1.0], ended_s=10.0)
    assert sorted((span.times_s, span.parent) for span in traces.of("encode")) == [
        ((8.25, 8.75), one.chunk.traceparent),
        ((9.0, 10.0), two.chunk.traceparent),
    ]


async def test_a_batch_that_nobody_traces_leaves_nothing() -> None:
    traces = RecordingTraces()
    silent = pending("one", number=1, flags="00")
    plain = PendingChunk(make_chunk("two", 2, size_px=16), 1.0, future=asyncio.Future())
    results = [(SampleSlice(each, 0, 2), rows(2)) for each in (silent, plain)]
    BatchTraces(traces).predicted(BatchOutcome(results, 0.5), ended_s=4.0)
    BatchTraces(traces).encoded([piece for piece, _ in results], [0.1, 0.1], ended_s=4.0)
    assert not traces.spans
