"""The result cache is one for both transports, and a slow upload is decoded while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
from grpc import aio
from support.inputs.clips import make_clip
from support.servers.front import running_front

from service.client.grpc_async import AsyncGrpcClient
from service.client.policy import ClientPolicy
from service.domain.options import SegmentOptions
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationStub

HANG_S = 60.0


async def test_what_one_transport_computed_the_other_is_given() -> None:
    clip = make_clip(num_frames=30, flash_frames=frozenset(range(3, 20)))
    async with (
        asyncio.timeout(HANG_S),
        running_front(cache_bytes=2**24) as front,
        httpx.AsyncClient(base_url=front.http_url, timeout=HANG_S) as rest,
        AsyncGrpcClient(front.grpc_target, ClientPolicy(attempts=1)) as grpc,
    ):
        first = (await rest.post("/v1/segment?fps=native", files={"video": clip})).json()
        assert not first["cached"]
        again = await grpc.segment(clip, SegmentOptions(fps="native"))
        assert again.summary.cached
        counts = [mask["segmentation"]["counts"] for frame in first["frames"] for mask in frame["masks"]]
        assert [mask.segmentation.counts for frame in again.frames for mask in frame.masks] == counts
        assert counts
        other = await grpc.segment(clip, SegmentOptions(fps=5.0))
        assert not other.summary.cached
        last = (await rest.post("/v1/segment?fps=5", files={"video": clip})).json()
        assert last["cached"]
        assert len(last["frames"]) == len(other.frames)


async def test_a_slow_upload_passes_the_cache_by() -> None:
    clip = make_clip(num_frames=30)
    messages: list[pb.SegmentResponse] = []

    async def requests() -> AsyncIterator[pb.SegmentRequest]:
        yield pb.SegmentRequest(options=pb.SegmentOptions())
        yield pb.SegmentRequest(chunk=clip[:-1])
        await asyncio.sleep(1.0)
        yield pb.SegmentRequest(chunk=clip[-1:])

    async with (
        asyncio.timeout(HANG_S),
        running_front(cache_bytes=2**24) as front,
        aio.insecure_channel(front.grpc_target) as channel,
    ):
        for _ in range(2):
            messages += [message async for message in SegmentationStub(channel).Segment(requests())]
    summaries = [message.summary for message in messages if message.WhichOneof("payload") == "summary"]
    assert [(summary.num_samples, summary.cached) for summary in summaries] == [(1, False)] * 2
