"""SegmentLive over a real connection, with real decoders and the real batcher."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator

import grpc
import numpy as np
import pytest
import pytest_asyncio
from grpc import aio
from pycocotools import mask as coco
from support.inputs.live_inputs import bright_picture, jpeg_of, noise, raw_frame
from support.servers.front import RunningFront, beside, running_front

from service.client.grpc_async import AsyncGrpcClient
from service.client.grpc_client import GrpcClient
from service.client.policy import ClientPolicy
from service.codec.protobuf import encode_live_input, encode_live_options
from service.core import message_writer
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveFrame, LiveFrameError, LiveInput, LiveMasks, LiveOptions, SoundPiece
from service.domain.result import ModelInfo, SoundEvent
from service.predictors.fake import FakePredictor, FakeTiming
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
ONCE = ClientPolicy(attempts=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front() as running:
        yield running


async def sent(items: Iterable[LiveInput], *, pause_s: float = 0.0) -> AsyncIterator[LiveInput]:
    for item in items:
        yield item
        await asyncio.sleep(pause_s)


async def answers(
    front: RunningFront, items: Iterable[LiveInput], options: LiveOptions | None = None
) -> list[LiveEvent]:
    async with AsyncGrpcClient(front.grpc_target, ONCE) as client, asyncio.timeout(HANG_S):
        events = [event async for event in client.live(sent(items), options)]
    return [event for event in events if not isinstance(event, SoundEvent)]


async def test_a_silent_stream_beats_and_clients_ignore_it(
    front: RunningFront, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(message_writer, "HEARTBEAT_S", 0.05)
    picture = bright_picture()

    async def requests() -> AsyncIterator[pb.LiveRequest]:
        yield encode_live_options(LiveOptions())
        await three_beats.wait()
        yield encode_live_input(raw_frame(0.5, picture))

    three_beats, kinds = asyncio.Event(), []
    async with aio.insecure_channel(front.grpc_target) as channel, asyncio.timeout(HANG_S):
        async for message in SegmentationStub(channel).SegmentLive(requests()):
            kinds.append(message.WhichOneof("payload"))
            if kinds.count("heartbeat") == 3:
                three_beats.set()
    assert kinds[0] == "model"
    assert kinds.count("frame") == 1
    async with AsyncGrpcClient(front.grpc_target, ONCE) as client, asyncio.timeout(HANG_S):
        items = [raw_frame(0.1, picture), raw_frame(0.2, picture)]
        events = [event async for event in client.live(sent(items, pause_s=0.3))]
    assert [type(event).__name__ for event in events] == ["ModelInfo", "LiveMasks", "LiveMasks"]


async def test_raw_and_jpeg_frames_with_sound_at_any_rate(front: RunningFront) -> None:
    picture = bright_picture()
    items: list[LiveInput] = [
        noise(0.0, 0.5),
        raw_frame(0.4, picture),
        LiveFrame(0.5, jpeg_of(picture), "jpeg", 0, 0),
        noise(0.5, 0.5, rate_hz=44_100),
        raw_frame(1.0, picture),
    ]
    model, *frames = await answers(front, items, LiveOptions(max_waiting_frames=64))
    assert isinstance(model, ModelInfo)
    assert [frame.masks.timestamp_s for frame in frames if isinstance(frame, LiveMasks)] == [0.4, 0.5, 1.0]
    for frame in frames:
        assert isinstance(frame, LiveMasks)
        (mask,) = frame.masks.masks
        assert mask.segmentation.size == (96, 128)
        pixels = coco.decode({"size": [96, 128], "counts": mask.segmentation.counts.encode()})
        assert pixels[:, :60].all()
        assert not pixels[:, 68:].any()
        assert frame.latency_s >= 0
        assert frame.num_dropped_frames == 0


async def test_an_event_comes_when_it_closes_and_at_the_end(front: RunningFront) -> None:
    bright, dark = bright_picture(), np.zeros((96, 128, 3), np.uint8)
    pictures = [bright, bright, dark, dark, dark, bright]
    items = [noise(0.0, 4.0), *(raw_frame(1.0 + 0.5 * i, picture) for i, picture in enumerate(pictures))]
    options = LiveOptions(max_waiting_frames=64, event_gap_s=0.6, event_min_s=0.0)
    async with AsyncGrpcClient(front.grpc_target, ONCE) as client, asyncio.timeout(HANG_S):
        kinds = [event async for event in client.live(sent(items), options)]
    places = [place for place, event in enumerate(kinds) if isinstance(event, SoundEvent)]
    events = [event for event in kinds if isinstance(event, SoundEvent)]
    assert [(event.start_s, event.end_s) for event in events] == [(1.0, 1.75), (3.25, 3.5)]
    assert places == [5, 8], "behind the frame at 2.5 s, after a pause of 0.75 s, and at the end"


async def test_an_open_event_ends_before_a_hole_without_frames(front: RunningFront) -> None:
    """Ten frames a second, then none for five seconds, in which sound goes on."""
    times_s = [*(1.0 + 0.1 * number for number in range(10)), 6.9, 7.0, 7.1]
    items = [noise(0.0, 8.0), *(raw_frame(time_s, bright_picture()) for time_s in times_s)]
    options = LiveOptions(max_waiting_frames=64, event_min_s=0.0)
    async with AsyncGrpcClient(front.grpc_target, ONCE) as client, asyncio.timeout(HANG_S):
        events = [event async for event in client.live(sent(items), options) if isinstance(event, SoundEvent)]
    assert [(event.start_s, event.end_s) for event in events] == [
        (pytest.approx(1.0), pytest.approx(1.9)),
        (pytest.approx(6.9), pytest.approx(7.1)),
    ]


async def test_a_stream_that_ends_for_want_of_input_tells_the_event_that_was_open(front: RunningFront) -> None:
    events: list[LiveEvent] = []

    async def inputs() -> AsyncIterator[LiveInput]:
        async for item in sent([noise(0.0, 2.0), *(raw_frame(1.0 + 0.1 * i, bright_picture()) for i in range(5))]):
            yield item
        await asyncio.sleep(HANG_S)

    options = LiveOptions(max_waiting_frames=64, event_min_s=0.0)
    async with (
        beside(front, idle_s=0.5) as impatient,
        asyncio.timeout(HANG_S),
        AsyncGrpcClient(impatient.grpc_target, ONCE) as client,
    ):
        stream = client.live(inputs(), options)
        ended = None
        while ended is None:
            try:
                events.append(await anext(stream))
            except ServiceError as error:
                ended = error
    assert ended.code == "slow_upload"
    [event] = [event for event in events if isinstance(event, SoundEvent)]
    assert (event.start_s, event.end_s) == (pytest.approx(1.0), pytest.approx(1.4))


async def test_without_sound_nothing_sounds(front: RunningFront) -> None:
    _, frame = await answers(front, [raw_frame(0.5, bright_picture())])
    assert isinstance(frame, LiveMasks)
    assert frame.masks.masks == ()


async def test_bad_frames_get_errors_and_the_stream_goes_on(front: RunningFront) -> None:
    good = bright_picture()
    junk = jpeg_of(good)
    items: list[LiveInput] = [
        noise(0.0, 2.0),
        raw_frame(0.1, good),
        LiveFrame(0.2, b"\xff\xd8 no picture", "jpeg", 0, 0),
        LiveFrame(0.3, junk[: len(junk) // 8], "jpeg", 0, 0),
        LiveFrame(0.4, b"xyz", "rgb24", 8, 8),
        raw_frame(0.1, good),
        SoundPiece(1.0, b"odd", 16_000),
        raw_frame(0.5, good),
    ]
    _, *events = await answers(front, items, LiveOptions(max_waiting_frames=64))
    errors = {event.timestamp_s: event.code for event in events if isinstance(event, LiveFrameError)}
    assert errors == {0.2: "broken", 0.3: "broken", 0.4: "malformed_body", 0.1: "malformed_body", 1.0: "malformed_body"}
    assert [event.masks.timestamp_s for event in events if isinstance(event, LiveMasks)] == [0.1, 0.5]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [pb.LiveRequest(frame=pb.LiveFrame())],
        [pb.LiveRequest()],
        [pb.LiveRequest(options=pb.LiveOptions())] * 2,
        [pb.LiveRequest(options=pb.LiveOptions()), pb.LiveRequest()],
        [pb.LiveRequest(options=pb.LiveOptions(max_waiting_frames=0))],
        [pb.LiveRequest(options=pb.LiveOptions(labels=["violin"]))],
    ],
)
async def test_malformed_streams_are_invalid_arguments(front: RunningFront, messages: list[pb.LiveRequest]) -> None:
    def run() -> grpc.RpcError:
        with grpc.insecure_channel(front.grpc_target) as channel, pytest.raises(grpc.RpcError) as refused:
            list(SegmentationStub(channel).SegmentLive(iter(messages)))
        return refused.value

    error = await asyncio.wait_for(asyncio.to_thread(run), HANG_S)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_streams_share_batches_and_answer_as_alone() -> None:
    """8 streams while the device takes 50 ms a batch: fewer batches than frames, every stream its own masks."""
    slow = FakeTiming(batch_s=0.05)
    pictures = [np.roll(bright_picture(), 8 * n, axis=1) for n in range(8)]

    def items(picture: np.ndarray) -> list[LiveInput]:
        return [noise(0.0, 1.0), *(raw_frame(0.1 * n, picture) for n in range(1, 9))]

    async with running_front(make_predictor=lambda: FakePredictor(timing=slow)) as front:
        options = LiveOptions(max_waiting_frames=64)
        alone = [await answers(front, items(picture)[:2], options) for picture in pictures]
        metrics = front.front.core.metrics
        before = metrics.registry.get_sample_value("avesformer_batch_size_count") or 0
        together = await asyncio.gather(*(answers(front, items(picture), options) for picture in pictures))
        num_batches = (metrics.registry.get_sample_value("avesformer_batch_size_count") or 0) - before
        assert metrics.registry.get_sample_value("avesformer_live_streams") == 0
    for one, many in zip(alone, together, strict=True):
        assert isinstance(one[1], LiveMasks)
        assert len(many) == 9
        assert all(isinstance(event, LiveMasks) and event.masks.masks == one[1].masks.masks for event in many[1:])
    assert num_batches <= 32


async def test_a_full_house_says_so(front: RunningFront) -> None:
    async with running_front(max_live_streams=1) as small, AsyncGrpcClient(small.grpc_target, ONCE) as client:
        forever = asyncio.Event()

        async def waiting() -> AsyncIterator[LiveInput]:
            yield raw_frame(0.1, bright_picture())
            await forever.wait()

        first = client.live(waiting())
        await anext(first)
        with pytest.raises(ServiceError) as refused:
            await anext(client.live(waiting()))
        assert refused.value.code == "too_many_requests"
        assert refused.value.retry_after_s
        await first.aclose()
        async with asyncio.timeout(HANG_S):
            await small.front.core.admission.wait_until_idle(None)


async def test_a_drain_ends_streams_after_their_current_frame() -> None:
    async with running_front() as front, AsyncGrpcClient(front.grpc_target, ONCE) as client:
        forever = asyncio.Event()

        async def camera() -> AsyncIterator[LiveInput]:
            yield raw_frame(0.1, bright_picture())
            await forever.wait()

        stream = client.live(camera())
        events = [await anext(stream), await anext(stream)]
        assert isinstance(events[1], LiveMasks)
        await asyncio.wait_for(front.drain(), HANG_S)
        with pytest.raises(ServiceError) as ended:
            await anext(stream)
    assert ended.value.code == "draining"
    assert ended.value.spec.is_retryable


async def test_the_blocking_client_streams_too(front: RunningFront) -> None:
    def run() -> list[LiveEvent]:
        with GrpcClient(front.grpc_target, ONCE) as client:
            return list(client.live([noise(0, 1), raw_frame(0.5, bright_picture())]))

    events = await asyncio.wait_for(asyncio.to_thread(run), HANG_S)
    assert [type(event).__name__ for event in events] == ["ModelInfo", "LiveMasks"]


async def test_what_the_callers_own_inputs_raise_comes_back(front: RunningFront) -> None:
    def broken() -> Iterator[LiveInput]:
        yield raw_frame(0.5, bright_picture())
        raise RuntimeError("camera unplugged")

    async def broken_too() -> AsyncIterator[LiveInput]:
        for item in broken():
            yield item

    def run() -> None:
        with GrpcClient(front.grpc_target, ONCE) as client:
            list(client.live(broken()))

    with pytest.raises(RuntimeError, match="unplugged"):
        await asyncio.wait_for(asyncio.to_thread(run), HANG_S)
    async with AsyncGrpcClient(front.grpc_target, ONCE) as client:
        with pytest.raises(RuntimeError, match="unplugged"):
            async for _ in client.live(broken_too()):
                pass
