"""The server around the methods: health, reflection, keys, TLS, slow readers, cancelled calls."""

import asyncio
import gc
import hashlib
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.inputs.clips import make_clip
from support.servers.front import beside, running_front
from support.waiting import until

from service.cli.front import ListenError
from service.client.grpc_async import AsyncGrpcClient
from service.client.grpc_client import GrpcClient
from service.client.policy import ClientPolicy
from service.domain.errors import ServiceError
from service.domain.live import LiveFrame, LiveInput
from service.domain.options import SegmentOptions
from service.predictors.fake import FakePredictor, FakeTiming
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

HANG_S = 60.0
ONCE = ClientPolicy(attempts=1)
SERVICE = "avesformer.v1.Segmentation"
Health = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def clip() -> bytes:
    return make_clip(num_frames=100, movflags="faststart", flash_frames=frozenset({30, 80}))


async def test_health_follows_warm_up_and_drain() -> None:
    async with running_front(is_warm=False) as front, aio.insecure_channel(front.grpc_target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watched: list[int] = []
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        async with asyncio.timeout(HANG_S):
            watched.append((await watch.read()).status)
            while watched[-1] != Health.SERVING:
                watched.append((await watch.read()).status)
            for name in ("", SERVICE):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == Health.SERVING
            with pytest.raises(aio.AioRpcError) as unknown:
                await stub.Check(health_pb2.HealthCheckRequest(service="other"))
            await front.drain()
            watched.append((await watch.read()).status)
        watch.cancel()
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert watched == [Health.NOT_SERVING, Health.SERVING, Health.NOT_SERVING]


async def test_not_serving_comes_before_work_is_refused() -> None:
    async with running_front() as front, aio.insecure_channel(front.grpc_target) as channel:
        await front.front.grpc.start_draining()
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE))).status == Health.NOT_SERVING
        assert not front.front.core.admission.is_draining


async def test_reflection_tells_the_contract() -> None:
    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    async with running_front() as front, aio.insecure_channel(front.grpc_target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, found = [answer async for answer in stub.ServerReflectionInfo(questions())]
    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= names
    file = FileDescriptorProto.FromString(found.file_descriptor_response.file_descriptor_proto[0])
    assert [method.name for method in file.service[0].method] == ["Segment", "SegmentLive", "GetModel"]


async def test_keys_are_asked_of_every_method_but_not_of_health(tmp_path: Path, clip: bytes) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{hashlib.sha256(b'open sesame').hexdigest()} alice\n")
    async with running_front(api_keys_file=keys) as front:
        for wrong in (None, "open barley"):
            async with AsyncGrpcClient(front.grpc_target, ClientPolicy(api_key=wrong, attempts=1)) as client:
                for call in (client.model(), client.segment(clip), anext(client.live(no_inputs()))):
                    with pytest.raises(ServiceError) as refused:
                        await call
                    assert refused.value.code == "unauthenticated"
        async with AsyncGrpcClient(front.grpc_target, ClientPolicy(api_key="open sesame")) as client:
            assert (await client.model()).variant == "fake"
            assert len((await client.segment(clip)).frames) == 4
        async with aio.insecure_channel(front.grpc_target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            async with asyncio.timeout(10):  # health follows readiness within a quarter of a second
                while (await stub.Check(health_pb2.HealthCheckRequest())).status != Health.SERVING:
                    await asyncio.sleep(0.05)


async def no_inputs() -> AsyncIterator[LiveInput]:
    return
    yield


async def test_tls(tmp_path: Path, clip: bytes) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command = [
        "openssl",
        *words.split(),
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, timeout=60)
    async with running_front(tls_cert=certificate, tls_key=key) as front:
        target = f"localhost:{front.grpc_port}"

        def run() -> int:
            with GrpcClient(target, ClientPolicy(ca_file=certificate), is_secure=True) as client:
                return len(client.segment(clip).frames)

        assert await asyncio.wait_for(asyncio.to_thread(run), HANG_S) == 4
        async with AsyncGrpcClient(target, ONCE) as plain:
            with pytest.raises(ServiceError) as refused:
                await plain.model()
    assert refused.value.code in ("backend_down", "deadline_exceeded")


async def test_a_taken_port_is_one_clear_error() -> None:
    async with running_front() as front:
        with pytest.raises(ListenError, match="cannot listen"):
            async with running_front(grpc_port=front.grpc_port):
                pass


class NoisyPredictor(FakePredictor):
    """Masks of noise: tens of kilobytes a frame at the model's size."""

    def predict(self, frames: np.ndarray, windows: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(0)
        return rng.choice(np.float32([-8, 8]), (len(frames), 1, 128, 128))


LARGE_MASKS = pb.SegmentOptions(native_fps=True, size=pb.MASK_SIZE_MODEL)


async def upload(data: bytes, options: pb.SegmentOptions) -> AsyncIterator[pb.SegmentRequest]:
    yield pb.SegmentRequest(options=options)
    for at in range(0, len(data), 50_000):
        yield pb.SegmentRequest(chunk=data[at : at + 50_000])


async def cut_readers(start: Callable[[SegmentationStub], Any], transport: str) -> float | None:
    """Start a call with large masks, read one message and stop reading; return how many readers were cut."""
    noisy = running_front(make_predictor=lambda: NoisyPredictor(input_height=512, input_width=512))
    async with (
        noisy as front,
        beside(front, stall_s=2.0) as impatient,
        aio.insecure_channel(impatient.grpc_target) as channel,
        asyncio.timeout(2 * HANG_S),
    ):
        call = start(SegmentationStub(channel))
        await call.read()
        await front.front.core.admission.wait_until_idle(None)
        call.cancel()
    registry = front.front.core.metrics.registry
    cut = {"transport": transport, "code": "slow_reader"}
    return registry.get_sample_value("avesformer_requests_total", cut)


async def test_a_client_that_does_not_read_is_held_back_and_cut() -> None:
    """14 MB of masks: writing waits for the client once the windows are full, and after the stall it is cut."""
    clip = make_clip(num_frames=400)
    assert await cut_readers(lambda stub: stub.Segment(upload(clip, LARGE_MASKS)), "grpc") == 1


async def test_a_live_client_that_does_not_read_is_cut_too() -> None:
    picture = bytes(3 * 64 * 64)

    async def camera() -> AsyncIterator[pb.LiveRequest]:
        yield pb.LiveRequest(options=pb.LiveOptions(max_audio_wait_s=0, size=pb.MASK_SIZE_MODEL))
        for n in range(1_000_000):
            frame = pb.LiveFrame(timestamp_s=n, data=picture, format=pb.PIXEL_FORMAT_RGB24, width=64, height=64)
            yield pb.LiveRequest(frame=frame)
            await asyncio.sleep(0.005)

    assert await cut_readers(lambda stub: stub.SegmentLive(camera()), "live") == 1


@dataclass(frozen=True)
class Footprint:
    """What a process holds: children, open files, tasks of the loop."""

    num_children: int
    num_fds: int
    tasks: Counter[str]

    @classmethod
    def now(cls) -> "Footprint":
        process = psutil.Process()
        tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())
        return cls(len(process.children(recursive=True)), process.num_fds(), tasks)

    def beyond(self, before: "Footprint") -> str:
        """What is here and was not before, in words; empty if nothing."""
        tasks = self.tasks - before.tasks
        # Counted, not told apart: the zygote replaces each used child by a new one that waits.
        num_children = max(0, self.num_children - before.num_children)
        num_fds = max(0, self.num_fds - before.num_fds)
        return f"{num_children} children, {num_fds} files, {dict(tasks)}" if num_children or tasks or num_fds else ""


async def test_200_cancelled_calls_leave_nothing(clip: bytes) -> None:
    """Cancelled at random moments, eight at a time, uploads and live streams: no slot, file, child or task stays."""
    rng = random.Random(5)
    timing = FakeTiming(batch_s=0.01)
    picture = bytes(3 * 64 * 64)

    async def camera() -> AsyncIterator[LiveInput]:
        for n in range(1000):
            yield LiveFrame(0.1 * n, picture, "rgb24", 64, 64)
            await asyncio.sleep(0.01)

    async with running_front(make_predictor=lambda: FakePredictor(timing=timing)) as front:
        core = front.front.core
        async with AsyncGrpcClient(front.grpc_target, ONCE) as client:

            async def watch() -> None:
                async for _ in client.live(camera()):
                    pass

            async def one(number: int) -> None:
                is_live = number % 4 == 3
                work = watch() if is_live else client.segment(clip, SegmentOptions(fps="native"))
                call = asyncio.create_task(work)
                await asyncio.sleep(rng.random() * 0.4)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

            for first in range(0, 16, 8):  # whatever is made once and kept is there before the count
                await asyncio.gather(*(one(number) for number in range(first, first + 8)))
            await until(lambda: not core.admission.in_flight)
            await client.segment(clip)
            await until(lambda: not core.admission.in_flight)
            await asyncio.sleep(0.5)  # the zygote forks new spares when it is idle
            before = Footprint.now()
            for first in range(0, 200, 8):
                await asyncio.gather(*(one(number) for number in range(first, first + 8)))
            await until(lambda: not core.admission.in_flight)
            gc.collect()
            try:
                await until(lambda: not Footprint.now().beyond(before))
            except AssertionError:
                pytest.fail(f"left over: {Footprint.now().beyond(before)}")
            assert core.spool.used_bytes == 0
            assert core.segmenter.queue_depth == 0
            assert core.metrics.registry.get_sample_value("avesformer_live_streams") == 0
            assert len((await client.segment(clip, SegmentOptions(fps="native"))).frames) == 100
