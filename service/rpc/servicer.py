"""The methods of avesformer.v1.Segmentation: parse, call the core, format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from service.aio.waits import bounded_wait
from service.codec.protobuf import (
    decode_live_input,
    decode_live_options,
    decode_options,
    encode_event,
    encode_live_event,
    encode_model,
)
from service.core.admission import Admission
from service.core.live import LiveStreams
from service.core.reader_rate import ReaderRate
from service.core.upload_rate import UploadRate
from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveInput, LiveMasks, LiveOptions
from service.domain.options import SegmentOptions
from service.domain.request import ClipStarted
from service.domain.result import FrameMasks, SoundEvent, Summary
from service.media.spool import Spool
from service.media.upload import Upload
from service.ports import Answering, Segmenter
from service.rpc.calls import Call, Calls, Rpc, read
from service.rpc.pb.avesformer.v1 import segmentation_pb2 as pb
from service.rpc.pb.avesformer.v1.segmentation_pb2_grpc import SegmentationServicer
from service.rpc.writer import CallWriter
from service.telemetry.traces import Span

# Seconds to wait for the options of a live stream. An upload's options are covered by the upload rule's first window.
_OPTIONS_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ServicerPolicy:
    """Limits of one RPC: upload size and rate, and the minimum rate of a reader over `stall_s` of waiting."""

    max_upload_bytes: int
    upload_min_bytes_per_s: int
    reader_min_bytes_per_s: int = 4096
    stall_s: float = 30.0

    def reader_rate(self) -> ReaderRate:
        """Return the rule for the reader of one call."""
        return ReaderRate(self.reader_min_bytes_per_s, window_s=self.stall_s)


@dataclass(frozen=True, slots=True)
class ServicerParts:
    """Parts that the methods call."""

    calls: Calls
    admission: Admission
    pipeline: Answering
    spool: Spool
    segmenter: Segmenter
    live: LiveStreams
    clock: Clock


class Servicer(SegmentationServicer):
    """The methods of the service; holds no state of its own."""

    def __init__(self, parts: ServicerParts, policy: ServicerPolicy) -> None:
        self._parts = parts
        self._policy = policy

    async def Segment(self, requests: AsyncIterator[pb.SegmentRequest], rpc: Rpc) -> None:  # noqa: N802
        """Answer an upload, while it still arrives if the file allows it."""
        await self._parts.calls.run(rpc, "grpc", lambda call: self._segment(requests, call), method="Segment")

    async def SegmentLive(self, requests: AsyncIterator[pb.LiveRequest], rpc: Rpc) -> None:  # noqa: N802
        """Answer a live stream."""
        await self._parts.calls.run(rpc, "live", lambda call: self._segment_live(requests, call), method="SegmentLive")

    async def GetModel(self, request: pb.GetModelRequest, rpc: Rpc) -> pb.ModelInfo:  # noqa: N802
        """Return the model."""
        return await self._parts.calls.run(rpc, "grpc", self._get_model, method="GetModel")

    async def _get_model(self, call: Call) -> pb.ModelInfo:
        model = await self._parts.segmenter.describe()
        await call.accept()
        return encode_model(model)

    async def _segment(self, requests: AsyncIterator[pb.SegmentRequest], call: Call) -> None:
        with self._parts.admission.admit(call.context):
            rate = UploadRate(self._policy.upload_min_bytes_per_s, clock=self._parts.clock)
            asked = await _read_options(requests, rate)
            await self._parts.pipeline.check(asked.options)
            upload = await self._parts.spool.open_upload(
                max_bytes=self._policy.max_upload_bytes, caller=call.context.caller
            )
            try:
                await call.accept()
                writer = CallWriter(call.rpc, rate=self._policy.reader_rate(), clock=self._parts.clock)
                async with writer.beating(pb.SegmentResponse(heartbeat=pb.Heartbeat())):
                    await self._exchange(_Incoming(requests, upload, rate), asked, call, writer)
            finally:
                upload.close()

    async def _exchange(self, incoming: _Incoming, asked: _UploadRequest, call: Call, writer: CallWriter) -> None:
        """Receive and answer side by side. When the answer ends, the rest of the upload is not awaited."""
        receiving = asyncio.create_task(incoming.receive(call.record.span), name="receive upload")
        num_to_skip = asked.resume_from_index
        try:
            answer = self._parts.pipeline.answer(incoming.upload, asked.options, call.context)
            async with aclosing(answer):
                async for event in answer:
                    if isinstance(event, ClipStarted | Summary):
                        call.record.upload_bytes = incoming.upload.size
                    if isinstance(event, Summary):
                        call.record.num_samples, call.record.timings_s = event.num_samples, event.timings_s
                        call.record.span.set(is_cached=event.cached)
                    if isinstance(event, FrameMasks | SoundEvent) and num_to_skip > 0:
                        num_to_skip -= isinstance(event, FrameMasks)
                        continue
                    await writer.send(encode_event(event))
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _segment_live(self, requests: AsyncIterator[pb.LiveRequest], call: Call) -> None:
        writer = CallWriter(call.rpc, rate=self._policy.reader_rate(), clock=self._parts.clock)

        async def emit(event: LiveEvent) -> None:
            call.record.num_samples += isinstance(event, LiveMasks)
            await writer.send(encode_live_event(event))

        with self._parts.admission.admit(call.context):
            options = await _read_live_options(requests)
            await call.accept()
            async with writer.beating(pb.LiveResponse(heartbeat=pb.Heartbeat())):
                await self._parts.live.run(_live_inputs(requests), options=options, emit=emit, context=call.context)


@dataclass(frozen=True, slots=True)
class _UploadRequest:
    """The first message of an upload. The caller already has the first `resume_from_index` frames."""

    options: SegmentOptions
    resume_from_index: int


class _Incoming:
    """An upload that is arriving."""

    def __init__(self, requests: AsyncIterator[pb.SegmentRequest], upload: Upload, rate: UploadRate) -> None:
        self._requests = requests
        self._rate = rate
        self.upload = upload

    async def receive(self, span: Span) -> None:
        """Write chunks to the upload. A failure reaches its reader, and so the caller."""
        try:
            with span.child("upload"):
                num_chunks = await self._receive()
            if not num_chunks:
                raise ServiceError("missing_file", "No chunk came after the options; send the file's bytes.")
            self.upload.finish()
        except ServiceError as error:
            self.upload.abort(error)
        except asyncio.CancelledError:
            self.upload.abort(ServiceError("client_gone", "The client disconnected before the upload was complete."))
            raise

    async def _receive(self) -> int:
        num_chunks = 0
        while (request := await _read_in_time(self._requests, self._rate)) is not None:
            if request.WhichOneof("payload") != "chunk":
                raise ServiceError("malformed_body", "SegmentRequest: after the options, every message is a chunk.")
            self._rate.add(len(request.chunk))
            await self.upload.write(request.chunk)
            num_chunks += 1
        return num_chunks


async def _read_in_time(requests: AsyncIterator[pb.SegmentRequest], rate: UploadRate) -> pb.SegmentRequest | None:
    """Return the next message; raises `slow_upload` if too little arrived for too long."""
    reading = asyncio.ensure_future(read(requests))
    try:
        while True:
            done, _ = await asyncio.wait({reading}, timeout=rate.timeout_s())
            if done:
                return reading.result()
            rate.check()
    finally:
        reading.cancel()


async def _read_options(requests: AsyncIterator[pb.SegmentRequest], rate: UploadRate) -> _UploadRequest:
    first = await _read_in_time(requests, rate)
    if first is None or first.WhichOneof("payload") != "options":
        raise ServiceError("malformed_body", "SegmentRequest: the first message holds the options.")
    if first.options.resume_from_index < 0:
        raise ServiceError("bad_option", "resume_from_index: give the number of frames that you have, 0 or more.")
    options = decode_options(first.options)
    if first.options.resume_from_index and options.only == "events":
        raise ServiceError("bad_option", "resume_from_index: an answer of events alone has no frames; leave it out.")
    return _UploadRequest(options, first.options.resume_from_index)


async def _read_live_options(requests: AsyncIterator[pb.LiveRequest]) -> LiveOptions:
    late = partial(ServiceError, "slow_upload", f"No options came within {_OPTIONS_TIMEOUT_S:g} s.")
    async with bounded_wait(_OPTIONS_TIMEOUT_S, late):
        first = await read(requests)
    if first is None or first.WhichOneof("payload") != "options":
        raise ServiceError("malformed_body", "LiveRequest: the first message holds the options.")
    return decode_live_options(first.options)


async def _live_inputs(requests: AsyncIterator[pb.LiveRequest]) -> AsyncIterator[LiveInput]:
    while (request := await read(requests)) is not None:
        yield decode_live_input(request)
