"""One connection's bounds, over real sockets: pings, dead peers, streams, age, metadata, silent live clients."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio
from grpc import aio
from support.servers.front import RunningFront, beside, running_front

from service.client.failures import grpc_error
from service.client.grpc_async import AsyncGrpcClient
from service.client.policy import ClientPolicy
from service.domain.errors import ServiceError
from service.domain.live import LiveFrame, LiveInput, LiveMasks
from service.domain.result import ModelInfo
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_S = 60.0
PING_EVERY_S = 0.2
PINGING = [
    ("grpc.keepalive_time_ms", round(1000 * PING_EVERY_S)),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
# RFC 9113, section 3.4: the preface, an empty SETTINGS frame and the acknowledgement of the server's.
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000 04 00 00000000 000000 04 01 00000000")
# Far over what the policy of the test allows, and under the minute that gRPC core would wait by itself.
UNANSWERED_S = 30.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front() -> AsyncIterator[RunningFront]:
    async with running_front() as running:
        yield running


async def silence() -> AsyncIterator[pb.LiveRequest]:
    """A live client that opens its stream and sends nothing more."""
    yield pb.LiveRequest(options=pb.LiveOptions())
    await asyncio.Event().wait()


async def failure_of(call: aio.StreamStreamCall) -> aio.AioRpcError:
    with pytest.raises(aio.AioRpcError) as ended:
        await asyncio.wait_for(call.read(), HANG_S)
    return ended.value


async def test_a_live_client_that_sends_nothing_gives_up_its_place(front: RunningFront) -> None:
    async with beside(front, idle_s=0.5) as impatient, aio.insecure_channel(impatient.grpc_target) as channel:
        call = SegmentationStub(channel).SegmentLive(silence())
        assert (await call.read()).HasField("model")
        ended = await failure_of(call)
        await asyncio.wait_for(front.front.core.admission.wait_until_idle(None), HANG_S)
    assert ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    error = grpc_error(ended.code(), ended.details(), tuple(ended.trailing_metadata()))
    assert (error.code, error.spec.is_retryable) == ("slow_upload", True)


async def test_a_client_that_pings_too_often_is_sent_away(front: RunningFront) -> None:
    async with (
        beside(front, min_client_ping_s=10.0) as strict,
        aio.insecure_channel(strict.grpc_target, options=PINGING) as channel,
    ):
        call = SegmentationStub(channel).SegmentLive(silence())
        assert (await call.read()).HasField("model")
        ended = await failure_of(call)
    assert ended.code() is grpc.StatusCode.UNAVAILABLE
    assert "too many pings" in (ended.details() or "").lower()


async def test_a_client_that_pings_as_often_as_it_may_stays(front: RunningFront) -> None:
    async with (
        beside(front, min_client_ping_s=PING_EVERY_S / 4) as lenient,
        aio.insecure_channel(lenient.grpc_target, options=PINGING) as channel,
    ):
        call = SegmentationStub(channel).SegmentLive(silence())
        assert (await call.read()).HasField("model")
        with pytest.raises(TimeoutError):  # ten pings later nothing has ended it
            await asyncio.wait_for(call.read(), 10 * PING_EVERY_S)


async def test_a_peer_that_answers_no_ping_is_dropped(front: RunningFront) -> None:
    """A client that fell off the network: the server's own pings find it, its socket is closed."""
    async with beside(front, keepalive_s=1.0, keepalive_timeout_s=1.0) as watchful:
        reader, writer = await asyncio.open_connection("127.0.0.1", watchful.grpc_port)
        writer.write(HTTP2_HELLO)
        async with asyncio.timeout(UNANSWERED_S):
            assert await reader.read(9)  # it speaks
            while await reader.read(4096):  # and is heard, never answered
                pass
        writer.close()


class Wire:
    """A proxy of one port that can go dead: it stays connected and passes nothing on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._is_alive = asyncio.Event()
        self._is_alive.set()
        self._pumps: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    def die(self) -> None:
        self._is_alive.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target in ((reader, far_writer), (far_reader, writer)):
            self._pumps.append(asyncio.create_task(self._pump(source, target)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._is_alive.wait()
                target.write(data)
        finally:
            target.close()


async def test_a_server_that_fell_silent_is_noticed_by_the_client(front: RunningFront) -> None:
    """A live stream that waits for an answer: nothing is on the way, only a ping can tell."""
    policy = ClientPolicy(attempts=1, keepalive_s=PING_EVERY_S, connect_timeout_s=1.0)

    async def camera() -> AsyncIterator[LiveInput]:
        yield LiveFrame(1.0, bytes(3 * 16 * 16), "rgb24", 16, 16)
        await asyncio.Event().wait()

    async with beside(front, min_client_ping_s=PING_EVERY_S / 4) as lenient:
        wire = Wire(lenient.grpc_port)
        async with (
            wire.listening() as port,
            AsyncGrpcClient(f"127.0.0.1:{port}", policy) as client,
            asyncio.timeout(UNANSWERED_S),
        ):
            events = client.live(camera())
            assert isinstance(await anext(events), ModelInfo)
            assert isinstance(await anext(events), LiveMasks)
            wire.die()
            with pytest.raises(ServiceError) as lost:
                await anext(events)
    assert lost.value.code == "backend_down"
    assert lost.value.spec.is_retryable


async def test_streams_over_the_limit_of_a_connection_wait_their_turn(front: RunningFront) -> None:
    async with (
        beside(front, max_streams_per_connection=1) as narrow,
        aio.insecure_channel(narrow.grpc_target) as channel,
    ):
        stub = SegmentationStub(channel)
        first = stub.SegmentLive(silence())
        assert (await first.read()).HasField("model")
        second = asyncio.ensure_future(stub.GetModel(pb.GetModelRequest()))
        done, _ = await asyncio.wait({second}, timeout=0.5)
        assert not done
        first.cancel()
        assert (await asyncio.wait_for(second, HANG_S)).variant == "fake"


async def test_an_old_connection_ends_but_its_calls_go_on(front: RunningFront) -> None:
    """After the age limit the client is told to go elsewhere; what runs is answered, what is new connects anew."""
    picture = bytes(3 * 16 * 16)
    is_enough = asyncio.Event()

    async def camera() -> AsyncIterator[pb.LiveRequest]:
        yield pb.LiveRequest(options=pb.LiveOptions(max_audio_wait_s=0))
        number = 0
        while not is_enough.is_set():
            number += 1
            frame = pb.LiveFrame(timestamp_s=number, data=picture, format=pb.PIXEL_FORMAT_RGB24, width=16, height=16)
            yield pb.LiveRequest(frame=frame)
            await asyncio.sleep(0.1)

    async with (
        beside(front, max_connection_age_s=0.5) as fickle,
        aio.insecure_channel(fickle.grpc_target) as channel,
        asyncio.timeout(HANG_S),
    ):
        call = SegmentationStub(channel).SegmentLive(camera())
        started_s, num_frames = time.monotonic(), 0
        async for answer in call:
            num_frames += answer.HasField("frame")
            if time.monotonic() > started_s + 2:
                is_enough.set()
        assert (await SegmentationStub(channel).GetModel(pb.GetModelRequest())).variant == "fake"
    assert num_frames > 1


async def test_metadata_over_the_limit_is_refused_by_grpc_itself(front: RunningFront) -> None:
    async with aio.insecure_channel(front.grpc_target) as channel:
        with pytest.raises(aio.AioRpcError) as refused:
            await SegmentationStub(channel).GetModel(pb.GetModelRequest(), metadata=(("x-large", "a" * 64 * 1024),))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await SegmentationStub(channel).GetModel(pb.GetModelRequest())).variant == "fake"
