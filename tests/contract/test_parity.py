"""REST JSON, NDJSON and gRPC give equal answers and equal errors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from pycocotools import mask as coco
from support.equality import SCORE_SLACK, allowed_pixels
from support.inputs.hostile import hostile_corpus
from support.inputs.odd_clips import odd_clip
from support.servers.front import RunningFront, beside, running_front

from service.client.grpc_async import AsyncGrpcClient
from service.client.grpc_messages import segment_requests
from service.client.policy import ClientPolicy
from service.codec.answer_json import decode_document, decode_line
from service.domain.errors import CODES, Kind, ServiceError
from service.domain.option_table import to_fields
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import FrameMasks, ModelInfo, SoundEvent, Summary
from service.media.upload import Upload
from service.postprocess.events import event_order
from service.predictors.fake import FakePredictor
from service.rest.errors import status_of
from service.rpc.errors import status_code
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 120.0
RAW = {"Content-Type": "application/octet-stream"}
NDJSON = {**RAW, "Accept": "application/x-ndjson"}
LABELS = ("dog", "drum", "car")
CLIPS = [
    *("plain", "no_b_frames", "one_key", "variable_rate", "late_first_frame", "ntsc", "slow", "fast"),
    *("index_first", "fragmented", "fragment_per_frame", "wide", "tall", "ten_bit", "hevc", "vp9", "mov_pcm", "mp3"),
    *("mono_8k", "surround", "sound_late", "sound_ends_early", "turned_90", "mirrored", "trimmed_front", "empty_edit"),
]
OPTIONS = [
    SegmentOptions(),
    SegmentOptions(fps="native", size="model"),
    SegmentOptions(fps=5, start_s=0.3, end_s=1.7),
    SegmentOptions(fps=2.5, threshold=0.25, labels=("drum",)),
    SegmentOptions(fps=10, min_area=200, labels=("dog", "car")),
]
MODEL_PX = 64


class EagerPredictor(FakePredictor):
    """Marks mid-bright parts too, so that the clips' dim pictures give masks."""

    def predict(self, frames: np.ndarray, windows: np.ndarray) -> np.ndarray:
        return super().predict(np.minimum(frames.astype(np.uint16) * 3, 255).astype(np.uint8), windows)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front(make_predictor=lambda: EagerPredictor(labels=LABELS)) as running:
        yield running


@dataclass(frozen=True)
class Told:
    """An answer as one transport told it."""

    started: ClipStarted
    frames: list[FrameMasks]
    timings_s: dict[str, float]
    num_samples: int
    cached: bool
    events: list[SoundEvent]


async def over_json(front: RunningFront, clip: bytes, options: SegmentOptions) -> Told:
    async with httpx.AsyncClient(timeout=HANG_S) as http:
        answer = await http.post(f"{front.http_url}/v1/segment", content=clip, headers=RAW, params=to_fields(options))
    assert answer.status_code == 200, answer.text
    read = decode_document(answer.content)
    started = ClipStarted(read.request_id, read.model, read.clip, read.options)
    assert read.clip.num_samples is not None
    return Told(started, list(read.frames), read.timings_s, read.clip.num_samples, read.cached, list(read.events))


async def over_ndjson(front: RunningFront, clip: bytes, options: SegmentOptions) -> Told:
    async with httpx.AsyncClient(timeout=HANG_S) as http:
        answer = await http.post(
            f"{front.http_url}/v1/segment", content=clip, headers=NDJSON, params=to_fields(options)
        )
    assert answer.status_code == 200, answer.text
    started, *middle, summary = [decode_line(line) for line in answer.content.splitlines()]
    assert isinstance(started, ClipStarted)
    assert isinstance(summary, Summary)
    audio = started.clip.audio
    assert audio is not None
    assert audio.notes is None, "known at the end only"
    started = replace(started, clip=replace(started.clip, audio=replace(audio, notes=summary.audio_notes)))
    frames = [event for event in middle if isinstance(event, FrameMasks)]
    events = sorted((event for event in middle if isinstance(event, SoundEvent)), key=event_order)
    return Told(started, frames, summary.timings_s, summary.num_samples, summary.cached, events)


async def over_grpc(front: RunningFront, clip: bytes, options: SegmentOptions) -> Told:
    async with AsyncGrpcClient(front.grpc_target, ClientPolicy(attempts=1)) as client:
        answer = await client.segment(clip, options)
    summary = answer.summary
    started = ClipStarted(answer.request_id, answer.model, answer.clip, answer.options)
    return Told(
        started, list(answer.frames), summary.timings_s, summary.num_samples, summary.cached, list(answer.events)
    )


def assert_equal_frames(one: FrameMasks, other: FrameMasks) -> None:
    """Equal answers as docs/contract.md defines them."""
    assert (one.sample_time_s, one.timestamp_s, one.index) == (other.sample_time_s, other.timestamp_s, other.index)
    assert [mask.label for mask in one.masks] == [mask.label for mask in other.masks]
    for first, second in zip(one.masks, other.masks, strict=True):
        assert first.segmentation.size == second.segmentation.size
        assert first.score == pytest.approx(second.score, abs=SCORE_SLACK)
        height, width = first.segmentation.size
        scale = max(1.0, height * width / MODEL_PX**2)
        pixels = [
            coco.decode({"size": [height, width], "counts": m.segmentation.counts.encode()}) for m in (first, second)
        ]
        assert (pixels[0] != pixels[1]).sum() <= allowed_pixels(first.area, second.area, scale=scale)


def rest_view(model: ModelInfo) -> tuple[object, ...]:
    """What REST tells of a model."""
    return model.variant, model.checkpoint, model.labels, model.world_version


@pytest.mark.parametrize("number", range(len(CLIPS)), ids=CLIPS)
async def test_a_clip_has_one_answer(front: RunningFront, number: int) -> None:
    clip, options = odd_clip(CLIPS[number]), OPTIONS[number % len(OPTIONS)]
    document, lines, rpc = [await tell(front, clip, options) for tell in (over_json, over_ndjson, over_grpc)]
    for streamed in (lines, rpc):
        assert streamed.started.options == document.started.options
        assert rest_view(streamed.started.model) == rest_view(document.started.model)
        for name in ("width", "height", "sample_aspect_ratio", "duration_s", "frame_rate", "num_samples", "audio"):
            whole, part = getattr(document.started.clip, name), getattr(streamed.started.clip, name)
            is_known_late = name in ("duration_s", "frame_rate", "num_samples") and part is None
            assert is_known_late or part == whole, name
        assert len(streamed.frames) == len(document.frames) == document.num_samples == streamed.num_samples
        assert set(streamed.timings_s) == set(document.timings_s)
        assert streamed.cached == document.cached
        for one, other in zip(document.frames, streamed.frames, strict=True):
            assert_equal_frames(one, other)
        assert [replace(event, mean_score=0.0) for event in streamed.events] == [
            replace(event, mean_score=0.0) for event in document.events
        ]
    assert document.events, "every clip sounds"
    assert any(frame.masks for frame in document.frames), "nothing was compared"


async def test_events_alone(front: RunningFront) -> None:
    clip = odd_clip("plain")
    whole = await over_json(front, clip, SegmentOptions(fps=10))
    for tell in (over_json, over_ndjson, over_grpc):
        told = await tell(front, clip, SegmentOptions(fps=10, only="events"))
        assert told.frames == []
        assert told.num_samples == whole.num_samples == len(whole.frames)
        assert told.events == whole.events != []


async def test_all_transports_share_one_memory() -> None:
    """What one computed the others are given as it was."""
    clip, options = odd_clip("index_first"), SegmentOptions(fps=5)
    async with running_front(make_predictor=lambda: EagerPredictor(labels=LABELS), cache_bytes=10**7) as front:
        first = await over_json(front, clip, options)
        assert not first.cached
        for tell in (over_json, over_ndjson, over_grpc):
            async with asyncio.timeout(HANG_S):
                again = await tell(front, clip, options)
                while not again.cached:  # an upload that takes its time is decoded while it comes, and not looked up
                    assert tell is over_grpc
                    again = await tell(front, clip, options)
            for one, other in zip(first.frames, again.frames, strict=True):
                assert_equal_frames(one, other)


BAD_FILES = {bad.name: bad for bad in hostile_corpus()}
QUICK = set([*BAD_FILES][::4])


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BAD_FILES]
)
async def test_a_bad_file_has_one_error(front: RunningFront, name: str) -> None:
    bad = BAD_FILES[name]
    async with httpx.AsyncClient(timeout=HANG_S) as http:
        answer = await http.post(f"{front.http_url}/v1/segment", content=bad.data, headers=RAW)
    rest_code = "ok" if answer.status_code == 200 else answer.json()["code"]
    try:
        await over_grpc(front, bad.data, SegmentOptions())
        rpc_code = "ok"
    except ServiceError as error:
        rpc_code = error.code
    assert rpc_code == rest_code
    assert rest_code in bad.codes


class Failing:
    """In place of the pipeline: fails each answer with the error whose code the upload's bytes name."""

    async def check(self, options: SegmentOptions) -> None:
        return

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        code, _, told = (await _content(upload)).partition(" ")
        retry_after_s = float(told) if told else None
        raise ServiceError(code, f"Detail of {code} and what to do.", retry_after_s=retry_after_s)
        yield


async def _content(upload: Upload) -> str:
    size = await upload.wait_for(10**9)
    return os.pread(upload.fd, size, 0).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def failing(front: RunningFront) -> AsyncIterator[RunningFront]:
    async with beside(front, answering=Failing()) as running:
        yield running


@pytest.mark.parametrize("code", CODES)
async def test_the_error_table_is_one_on_both_transports(failing: RunningFront, code: str) -> None:
    told = 3 if CODES[code].is_retryable else None
    problem = await _problem(failing, code, told)
    failure = await asyncio.to_thread(_failure, failing.grpc_target, code, told)
    expected = ServiceError(code, "")
    assert failure["status"] is status_code(expected)
    if expected.spec.kind.value == "cancelled":
        assert problem is None  # the client is gone: nothing is written
        return
    assert problem is not None
    assert problem["status"] == status_of(code)
    assert problem["code"] == failure["code"] == code
    assert problem["title"] == failure["title"] == expected.spec.title
    assert problem["detail"] == failure["detail"] == f"Detail of {code} and what to do."
    assert problem["request_id"] == failure["request_id"] == f"id-{code}"
    assert problem.get("retry_after_s") == failure["retry_after_s"] == told
    assert (failure["pushback_ms"] is not None) == ("retry_after_s" in problem)


ONE_OF_EACH_KIND = {spec.kind: code for code, spec in CODES.items() if spec.kind is not Kind.CANCELLED}


@pytest.mark.parametrize("code", ONE_OF_EACH_KIND.values())
async def test_both_transports_ask_for_the_same_wait_where_none_was_measured(failing: RunningFront, code: str) -> None:
    problem = await _problem(failing, code, None)
    failure = await asyncio.to_thread(_failure, failing.grpc_target, code, None)
    assert problem is not None
    assert problem.get("retry_after_s") == failure["retry_after_s"]
    must_say = CODES[code].kind in (Kind.OVERLOADED, Kind.UNAVAILABLE)
    assert (failure["retry_after_s"] is not None) == (failure["pushback_ms"] is not None) == must_say


def _asked(code: str, retry_after_s: int | None) -> bytes:
    return f"{code} {'' if retry_after_s is None else retry_after_s}".encode()


async def _problem(failing: RunningFront, code: str, retry_after_s: int | None) -> dict[str, Any] | None:
    headers = {**RAW, "X-Request-ID": f"id-{code}"}
    async with httpx.AsyncClient(timeout=HANG_S) as http:
        try:
            answer = await http.post(
                f"{failing.http_url}/v1/segment", content=_asked(code, retry_after_s), headers=headers
            )
        except httpx.RemoteProtocolError:
            return None
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == problem["status"]
    assert answer.headers.get("retry-after") == (str(problem["retry_after_s"]) if "retry_after_s" in problem else None)
    return problem


def _failure(target: str, code: str, retry_after_s: int | None) -> dict[str, Any]:
    metadata = (("x-request-id", f"id-{code}"),)
    requests = segment_requests(_asked(code, retry_after_s), SegmentOptions())
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as failed:
        list(SegmentationStub(channel).Segment(requests, metadata=metadata))
    error = failed.value
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return {
        "status": error.code(),
        "detail": error.details(),
        "code": info.metadata.get("code"),
        "title": info.metadata.get("title"),
        "request_id": info.metadata.get("request_id"),
        "retry_after_s": retry.retry_delay.seconds or None,
        "pushback_ms": trailers.get("grpc-retry-pushback-ms"),
    }
