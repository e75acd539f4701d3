"""Segment over a real connection: streaming both ways, order, limits, deadlines, drain."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from support.inputs.clips import make_clip
from support.servers.front import RunningFront, beside, running_front
from support.waiting import until

from service.client.failures import grpc_error
from service.client.grpc_async import AsyncGrpcClient
from service.client.grpc_client import GrpcClient
from service.client.policy import ClientPolicy
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, SoundEvent, Summary
from service.predictors.fake import FakePredictor, FakeTiming
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
ONCE = ClientPolicy(attempts=1)
FASTSTART = "faststart"


@pytest.fixture(scope="module")
def clip() -> bytes:
    """4 s at 25 frames a second, its index first."""
    return make_clip(num_frames=100, movflags=FASTSTART, flash_frames=frozenset({30, 80}))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front() as running:
        yield running


async def until_admitted(front: RunningFront) -> None:
    """Wait until a request is inside."""
    await until(lambda: front.front.core.admission.in_flight)


async def send(channel: aio.Channel, messages: list[pb.SegmentRequest], **call: object) -> aio.StreamStreamCall:
    """A call that sends these messages and half-closes."""

    async def requests() -> AsyncIterator[pb.SegmentRequest]:
        for message in messages:
            yield message

    return SegmentationStub(channel).Segment(requests(), **call)


async def refusal_of(front: RunningFront, messages: list[pb.SegmentRequest]) -> grpc.RpcError:
    """What a call with these messages fails with; blocking, since grpc.aio may lose it (see client.grpc_async)."""

    def run() -> grpc.RpcError:
        with grpc.insecure_channel(front.grpc_target) as channel, pytest.raises(grpc.RpcError) as refused:
            list(SegmentationStub(channel).Segment(iter(messages)))
        return refused.value

    return await asyncio.wait_for(asyncio.to_thread(run), HANG_S)


def documented(error: grpc.RpcError) -> ServiceError:
    """As the client reads it."""
    return grpc_error(error.code(), error.details(), error.trailing_metadata())


async def test_clip_then_frames_then_summary(front: RunningFront, clip: bytes) -> None:
    async with AsyncGrpcClient(front.grpc_target, ONCE) as client:
        events = [event async for event in client.stream(clip, request_id="my-id")]
    started, *frames, summary = events
    assert isinstance(started, ClipStarted)
    assert started.request_id == "my-id"
    assert (started.clip.width, started.clip.height) == (64, 48)
    assert isinstance(summary, Summary)
    assert summary.num_samples == len(frames) == 4
    assert set(summary.timings_s) == {"upload", "decode", "queue", "predict", "encode", "total"}
    assert [frame.sample_time_s for frame in frames if isinstance(frame, FrameMasks)] == [
        0.9375,
        1.9375,
        2.9375,
        3.9375,
    ]


@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096, 3 * 1024**2])
async def test_chunks_of_any_size(front: RunningFront, chunk_bytes: int) -> None:
    """Up to 300 of them, then the rest at once."""
    small = make_clip(num_frames=8)
    edge = min(len(small), 300 * chunk_bytes)
    pieces = [small[at : min(at + chunk_bytes, edge)] for at in range(0, edge, chunk_bytes)]
    chunks = [pb.SegmentRequest(chunk=piece) for piece in [*pieces, small[edge:]]]
    async with beside(front) as unhurried, aio.insecure_channel(unhurried.grpc_target) as channel:
        call = await send(channel, [pb.SegmentRequest(options=pb.SegmentOptions(native_fps=True)), *chunks])
        answers = [message async for message in call]
    assert answers[-1].summary.num_samples == 8


@pytest.mark.parametrize("movflags", [FASTSTART, "frag_keyframe+empty_moov+default_base_moof"])
async def test_masks_leave_before_the_upload_ends(front: RunningFront, movflags: str) -> None:
    """The last piece is held back until a mask has come."""
    clip = make_clip(num_frames=250, gop=25, movflags=movflags, flash_frames=frozenset(range(15, 25)))
    a_mask_came = asyncio.Event()

    async def requests() -> AsyncIterator[pb.SegmentRequest]:
        yield pb.SegmentRequest(options=pb.SegmentOptions(fps=5))
        held_back = len(clip) // 4
        for at in range(0, len(clip) - held_back, 1000):
            yield pb.SegmentRequest(chunk=clip[at : min(at + 1000, len(clip) - held_back)])
        await a_mask_came.wait()
        yield pb.SegmentRequest(chunk=clip[-held_back:])

    frames = []
    async with (
        beside(front) as unhurried,
        aio.insecure_channel(unhurried.grpc_target) as channel,
        asyncio.timeout(HANG_S),
    ):
        async for message in SegmentationStub(channel).Segment(requests()):
            if message.WhichOneof("payload") == "frame":
                frames.append(message.frame)
                if message.frame.masks:
                    a_mask_came.set()
    assert len(frames) == 50


async def test_a_growing_upload_lends_its_place_while_it_waits_for_its_client(clip: bytes) -> None:
    """With one place and no line, another clip is answered between the first masks of a growing one and its end."""
    growing = make_clip(num_frames=250, gop=25, movflags=FASTSTART)
    others_ended = asyncio.Event()

    async def requests() -> AsyncIterator[pb.SegmentRequest]:
        yield pb.SegmentRequest(options=pb.SegmentOptions(fps=5))
        yield pb.SegmentRequest(chunk=growing[: len(growing) * 3 // 4])
        await others_ended.wait()
        yield pb.SegmentRequest(chunk=growing[len(growing) * 3 // 4 :])

    bounds = {"max_concurrent_requests": 1, "max_waiting_requests": 0, "upload_min_bytes_per_s": 0}
    async with (
        running_front(**bounds) as front,
        aio.insecure_channel(front.grpc_target) as channel,
        asyncio.timeout(HANG_S),
    ):
        call = SegmentationStub(channel).Segment(requests())
        assert (await call.read()).WhichOneof("payload") == "clip"
        places = front.front.core.admission.places
        for _ in range(2):
            await until(lambda: places.num_working == 0, what="the growing one waits for its client")
            other = await send(channel, [pb.SegmentRequest(options=pb.SegmentOptions()), pb.SegmentRequest(chunk=clip)])
            assert [message async for message in other][-1].HasField("summary")
        others_ended.set()
        answers = []
        while (message := await call.read()) is not aio.EOF:
            answers.append(message)
        assert answers[-1].summary.num_samples == 50
        await until(lambda: places.num_working == 0, what="no place is left over")


async def test_an_interrupted_call_is_resumed_where_it_broke(front: RunningFront, clip: bytes) -> None:
    options = SegmentOptions(fps=4)
    with GrpcClient(front.grpc_target) as client:

        def frames(resume_from_index: int = 0) -> list[FrameMasks]:
            events = client.stream(clip, options, resume_from_index=resume_from_index)
            return [event for event in events if isinstance(event, FrameMasks)]

        whole = await asyncio.to_thread(frames)
        rest = await asyncio.to_thread(frames, 5)
    assert len(whole) == 16
    assert rest == whole[5:]


async def test_a_resumed_call_has_the_events_behind_its_frames_and_those_of_the_last_frame_before(
    front: RunningFront,
) -> None:
    """An event that closed with the last frame that arrived may have been lost with the connection: it comes again."""
    clip = make_clip(num_frames=75, flash_frames=frozenset([*range(5, 20), *range(40, 60)]))
    options = SegmentOptions(fps=10, event_gap_s=0.0, event_min_s=0.0)
    with GrpcClient(front.grpc_target) as client:

        def events(resume_from_index: int = 0) -> list[AnswerEvent]:
            stream = client.stream(clip, options, resume_from_index=resume_from_index)
            return [event for event in stream if isinstance(event, FrameMasks | SoundEvent)]

        whole = await asyncio.to_thread(events)
        places = [place for place, event in enumerate(whole) if isinstance(event, SoundEvent)]
        assert len(places) >= 2, "the clip has events that close before its end"
        num_frames = sum(isinstance(event, FrameMasks) for event in whole[: places[0]])
        for num_had in (num_frames - 1, num_frames, num_frames + 1):
            resumed = await asyncio.to_thread(events, num_had)
            seen = 0
            rest = []
            for event in whole:
                if seen >= num_had:
                    rest.append(event)
                seen += isinstance(event, FrameMasks)
            assert resumed == rest
            assert (whole[places[0]] in resumed) == (num_had <= num_frames)


async def test_an_answer_may_end_before_the_upload_does(front: RunningFront, clip: bytes) -> None:
    """The first second is asked for: the rest of the upload is neither waited for nor an error."""
    is_over = asyncio.Event()

    async def requests() -> AsyncIterator[pb.SegmentRequest]:
        yield pb.SegmentRequest(options=pb.SegmentOptions(end_s=1))
        yield pb.SegmentRequest(chunk=clip)
        await is_over.wait()

    async with aio.insecure_channel(front.grpc_target) as channel, asyncio.timeout(HANG_S):
        answers = [message async for message in SegmentationStub(channel).Segment(requests())]
        is_over.set()
    assert answers[-1].summary.num_samples == 1


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([], "malformed_body"),
        ([pb.SegmentRequest()], "malformed_body"),
        ([pb.SegmentRequest(chunk=b"x")], "malformed_body"),
        ([pb.SegmentRequest(options=pb.SegmentOptions())] * 2, "malformed_body"),
        ([pb.SegmentRequest(options=pb.SegmentOptions()), pb.SegmentRequest()], "malformed_body"),
        ([pb.SegmentRequest(options=pb.SegmentOptions())], "missing_file"),
        ([pb.SegmentRequest(options=pb.SegmentOptions()), pb.SegmentRequest(chunk=b"")], "empty_file"),
        ([pb.SegmentRequest(options=pb.SegmentOptions()), pb.SegmentRequest(chunk=b"no mp4 at all")], "not_mp4"),
        ([pb.SegmentRequest(options=pb.SegmentOptions(fps=-1))], "bad_option"),
        ([pb.SegmentRequest(options=pb.SegmentOptions(labels=["violin"]))], "bad_option"),
        ([pb.SegmentRequest(options=pb.SegmentOptions(only="ANSWER_PART_EVENTS", resume_from_index=1))], "bad_option"),
    ],
)
async def test_malformed_calls_are_invalid_arguments(
    front: RunningFront, messages: list[pb.SegmentRequest], code: str
) -> None:
    error = await refusal_of(front, messages)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert documented(error).code == code


async def test_too_large_uploads_end_at_the_limit(clip: bytes) -> None:
    async with running_front(max_upload_bytes=2000) as front, AsyncGrpcClient(front.grpc_target, ONCE) as client:
        with pytest.raises(ServiceError) as refused:
            await client.segment(clip)
    assert refused.value.code == "upload_too_large"
    assert "2000" in refused.value.detail


async def test_a_message_over_4_mib_is_refused_by_grpc_itself(front: RunningFront) -> None:
    options = pb.SegmentRequest(options=pb.SegmentOptions())
    error = await refusal_of(front, [options, pb.SegmentRequest(chunk=bytes(4 * 1024**2 + 1))])
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_late_answer_is_deadline_exceeded(clip: bytes) -> None:
    slow = FakeTiming(batch_s=0.3)
    async with running_front(make_predictor=lambda: FakePredictor(timing=slow), max_batch=1) as front:
        async with AsyncGrpcClient(front.grpc_target, ClientPolicy(timeout_s=0.5, attempts=1)) as client:
            with pytest.raises(ServiceError) as late:
                await client.segment(clip, SegmentOptions(fps="native"))
        assert late.value.code in ("deadline_exceeded", "cannot_meet_deadline")
        await asyncio.wait_for(front.front.core.admission.wait_until_idle(None), HANG_S)
        assert front.front.core.segmenter.queue_depth == 0


async def test_request_ids_are_made_and_given_back(front: RunningFront, clip: bytes) -> None:
    async with aio.insecure_channel(front.grpc_target) as channel:
        messages = [pb.SegmentRequest(options=pb.SegmentOptions()), pb.SegmentRequest(chunk=clip)]
        bad = await send(channel, messages, metadata=(("x-request-id", "spaces are not safe"),))
        made = dict(await bad.initial_metadata())["x-request-id"]
        head = await bad.read()
        assert len(made) == 32
        assert head.clip.request_id == made
        bad.cancel()


async def test_overload_pushes_back(clip: bytes) -> None:
    slow = FakeTiming(batch_s=0.2)
    async with (
        running_front(
            make_predictor=lambda: FakePredictor(timing=slow),
            max_concurrent_requests=1,
            max_waiting_requests=0,
            max_batch=1,
        ) as front,
        aio.insecure_channel(front.grpc_target) as channel,
    ):
        messages = [pb.SegmentRequest(options=pb.SegmentOptions(native_fps=True)), pb.SegmentRequest(chunk=clip)]
        first = await send(channel, messages)
        await first.read()
        refused = await refusal_of(front, messages)
        pushback_ms = int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"])
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert pushback_ms >= 1000
        assert documented(refused).code == "queue_full"
        assert documented(refused).retry_after_s == pytest.approx(pushback_ms / 1000, abs=1e-3)
        first.cancel()


async def test_get_model_tells_the_model_and_refuses_while_it_warms_up() -> None:
    async with running_front() as front, AsyncGrpcClient(front.grpc_target) as client:
        model = await client.model()
        assert (model.variant, model.labels, model.input_height) == ("fake", ("sounding",), 64)

    def never() -> FakePredictor:
        release.wait(HANG_S)
        return FakePredictor()

    release = threading.Event()
    async with (
        running_front(make_predictor=never, is_warm=False) as front,
        AsyncGrpcClient(front.grpc_target) as client,
    ):
        with pytest.raises(ServiceError) as early:
            await client.model()
        assert early.value.code == "warming_up"
        assert early.value.retry_after_s
        release.set()
        await front.warming


async def test_running_calls_end_well_in_a_drain_and_new_ones_are_told_to_go_elsewhere(clip: bytes) -> None:
    slow = FakeTiming(batch_s=0.05)
    async with (
        running_front(make_predictor=lambda: FakePredictor(timing=slow), max_batch=4) as front,
        AsyncGrpcClient(front.grpc_target, ONCE) as client,
    ):
        running = asyncio.create_task(client.segment(clip, SegmentOptions(fps="native")))
        await until_admitted(front)
        draining = asyncio.create_task(front.drain())
        await until(lambda: front.front.core.admission.is_draining)
        with pytest.raises(ServiceError) as refused:
            await client.segment(clip)
        answer = await asyncio.wait_for(running, HANG_S)
        await asyncio.wait_for(draining, HANG_S)
    assert refused.value.code == "draining"
    assert len(answer.frames) == 100


async def test_what_still_runs_at_the_end_of_a_drain_ends_as_draining(clip: bytes) -> None:
    slow = FakeTiming(batch_s=0.5)
    async with (
        running_front(make_predictor=lambda: FakePredictor(timing=slow), max_batch=1, drain_s=0.2) as front,
        AsyncGrpcClient(front.grpc_target, ONCE) as client,
    ):
        running = asyncio.create_task(client.segment(clip, SegmentOptions(fps="native")))
        await until_admitted(front)
        await asyncio.wait_for(front.drain(), HANG_S)
        with pytest.raises(ServiceError) as ended:
            await asyncio.wait_for(running, HANG_S)
    assert ended.value.code == "draining"
    assert ended.value.spec.is_retryable


async def test_what_the_callers_own_data_raises_comes_back(front: RunningFront, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with AsyncGrpcClient(front.grpc_target, ONCE) as client:
            await client.segment(tmp_path / "none.mp4")


async def test_a_file_is_read_from_disk(front: RunningFront, clip: bytes, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip)
    seen: list[str] = []
    async with AsyncGrpcClient(front.grpc_target, ONCE) as client:
        answer = await client.segment(tmp_path / "clip.mp4", on_event=lambda event: seen.append(type(event).__name__))
    assert seen == ["ClipStarted", *["FrameMasks"] * 4, "Summary"]
    assert len(answer.frames) == 4
