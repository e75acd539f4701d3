"""THE data path, top to bottom: decode -> chunks -> segment -> frames in order -> summary.

An answer is an async generator of events. Its work runs in one task group behind it, so that whatever ends the answer
(the reader leaves, a deadline, an error anywhere) ends all of it at once: the decoder child, the queued chunks, the
file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from service.aio.byte_budget import ByteBudget
from service.aio.tasks import first_error
from service.aio.waits import bounded_wait
from service.core.answer_spool import AnswerSpool, AnswerSpoolPolicy
from service.core.chunker import ChunkPolicy, chunks_of
from service.core.timings import Timings
from service.domain.chunk import Chunk, MaskPolicy, SampleBlock, SegmentedChunk
from service.domain.clip import ClipInfo
from service.domain.deadline import Clock, deadline_exceeded
from service.domain.errors import ServiceError
from service.domain.options import AppliedOptions, SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import ANSWER_DECIMALS, FrameMasks, ModelInfo, Summary
from service.media.decoders.pool import ClipReader, DecoderPool
from service.media.policy import DecodeRequest
from service.media.upload import Upload
from service.ports import Segmenter
from service.telemetry.metrics import Metrics
from service.telemetry.traces import NO_TRACES, Traces


@dataclass(frozen=True, slots=True)
class PipelinePolicy:
    """Bounds of one request's work and of all requests' decoded bytes."""

    max_queued_bytes: int
    max_outstanding_chunks: int = 4
    chunks: ChunkPolicy = field(default_factory=ChunkPolicy)
    spool: AnswerSpoolPolicy = field(default_factory=AnswerSpoolPolicy)


@dataclass(slots=True)
class _Flow:
    """What the two sides of one request share: decoding sends chunks in, emitting takes their answers in order."""

    context: RequestContext
    timings: Timings
    spool: AnswerSpool
    places: asyncio.Semaphore
    checkpoint: str
    sent: asyncio.Queue[asyncio.Task[SegmentedChunk] | None] = field(default_factory=asyncio.Queue)
    waited_s: float = 0.0
    num_chunks: int = 0
    held_bytes: int = 0


class Pipeline:
    """Answers uploads; one for all transports. Implements `ports.Answering`."""

    def __init__(
        self,
        *,
        segmenter: Segmenter,
        decoders: DecoderPool,
        policy: PipelinePolicy,
        metrics: Metrics,
        clock: Clock,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._segmenter = segmenter
        self._decoders = decoders
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._traces = traces
        self._budget = ByteBudget(policy.max_queued_bytes)

    async def check(self, options: SegmentOptions) -> None:
        """Refuse early what cannot be answered: no model yet (`warming_up`), labels it does not know (`bad_option`)."""
        options.resolve(await self._segmenter.describe())

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        """The masks of an upload, which may still be growing.

        Closing the generator ends all work for it. A slow reader holds neither a decoder nor much memory.

        Yields:
            one ClipStarted, FrameMasks in order, one Summary.

        Raises:
            ServiceError: anything of the error table that decoding or segmenting can meet, `deadline_exceeded`.
        """
        spool = AnswerSpool(self._policy.spool)
        work = asyncio.create_task(self._work(upload, options, context, spool), name=f"answer {context.request_id}")
        work.add_done_callback(lambda done: _end_with_task(spool, done))
        try:
            async for event in spool.events():
                yield event
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            spool.close()

    async def _work(self, upload: Upload, options: SegmentOptions, context: RequestContext, spool: AnswerSpool) -> None:
        now = self._clock()
        timings = Timings(self._clock, now if context.started_at_s is None else context.started_at_s)
        timings.upload_s = now - timings.started_at_s
        timings.stage = "decoding"
        try:
            async with bounded_wait(context.deadline.timeout_s(self._clock), lambda: deadline_exceeded(timings.stage)):
                num_samples = await self._run(upload, options, context, spool, timings)
        except BaseExceptionGroup as group:
            raise first_error(group, ServiceError) from None
        timings.observe(self._metrics)
        spool.end(Summary(num_samples=num_samples, timings_s=timings.summary()))

    async def _run(
        self,
        upload: Upload,
        options: SegmentOptions,
        context: RequestContext,
        spool: AnswerSpool,
        timings: Timings,
    ) -> int:
        """Decode and segment side by side; returns the number of samples."""
        model = await self._segmenter.describe()
        applied = options.resolve(model)
        places = asyncio.Semaphore(self._policy.max_outstanding_chunks)
        flow = _Flow(context, timings, spool, places, model.checkpoint)
        try:
            async with asyncio.TaskGroup() as group:
                emitting = group.create_task(self._emit(flow))
                with self._traces.span("decode", parent=context.traceparent) as span:
                    await self._decode(upload, model, applied, flow, group)
                    span.set(waited_s=flow.waited_s, num_chunks=flow.num_chunks)
                timings.stage = "prediction"
            return emitting.result()
        finally:
            self._budget.release(flow.held_bytes)

    async def _decode(
        self, upload: Upload, model: ModelInfo, applied: AppliedOptions, flow: _Flow, group: asyncio.TaskGroup
    ) -> None:
        """Decode the upload and send its chunks off; the decoder is given back when the last one has left."""
        request = DecodeRequest(options=applied, frame_height=model.input_height, frame_width=model.input_width)
        since_s = self._clock()
        async with self._decoders.open(upload, request, deadline=flow.context.deadline) as reader:
            flow.waited_s = round(reader.waited_s, ANSWER_DECIMALS)
            flow.timings.queue_s += reader.waited_s
            flow.timings.decode_s += self._clock() - since_s - reader.waited_s
            flow.spool.put(ClipStarted(flow.context.request_id, model, _rounded_clip(reader.clip), applied))
            masks = MaskPolicy.of(applied, source_size=(reader.clip.height, reader.clip.width), model=model)
            with self._segmenter.expect(flow.context.request_id):
                async with aclosing(self._chunks(reader, flow)) as chunks:
                    async for samples in chunks:
                        await self._send(samples, masks, flow, group)
        flow.sent.put_nowait(None)

    def _chunks(self, reader: ClipReader, flow: _Flow) -> AsyncGenerator[SampleBlock, None]:
        blocks = self._held(flow.timings.decoding(reader.blocks()), flow)
        return chunks_of(blocks, is_idle=self._segmenter.is_idle, policy=self._policy.chunks, clock=self._clock)

    async def _held(self, blocks: AsyncIterator[SampleBlock], flow: _Flow) -> AsyncIterator[SampleBlock]:
        """The same blocks, each counted against the budget of decoded bytes from here until its chunk is answered."""
        async for block in blocks:
            await self._budget.acquire(block.frames.nbytes)
            flow.held_bytes += block.frames.nbytes
            yield block

    async def _send(self, samples: SampleBlock, masks: MaskPolicy, flow: _Flow, group: asyncio.TaskGroup) -> None:
        """Send a chunk off, waiting while too many of this request are outstanding."""
        await flow.places.acquire()
        chunk = Chunk(
            request_id=flow.context.request_id,
            chunk_no=flow.num_chunks,
            samples=samples,
            masks=masks,
            deadline=flow.context.deadline,
            is_interactive=flow.context.is_interactive,
            checkpoint=flow.checkpoint,
        )
        flow.num_chunks += 1
        flow.sent.put_nowait(group.create_task(self._segment(chunk, flow)))

    async def _segment(self, chunk: Chunk, flow: _Flow) -> SegmentedChunk:
        parent = flow.context.traceparent
        told = {"chunk_no": chunk.chunk_no, "num_samples": len(chunk.samples)}
        try:
            with self._traces.span("chunk", parent=parent, kind="producer", **told) as span:
                return await self._segmenter.segment(chunk.under(span.traceparent))
        finally:
            num_bytes = chunk.samples.frames.nbytes
            flow.held_bytes -= num_bytes
            self._budget.release(num_bytes)

    async def _emit(self, flow: _Flow) -> int:
        """Hand the frames on in order; returns how many."""
        num_samples = 0
        while (segmenting := await flow.sent.get()) is not None:
            chunk = await segmenting
            flow.timings.add(chunk)
            for frame in chunk.frames:
                flow.spool.put(_rounded_frame(frame))
            num_samples += len(chunk.frames)
            flow.places.release()
        return num_samples


def _rounded_clip(clip: ClipInfo) -> ClipInfo:
    duration_s = None if clip.duration_s is None else round(clip.duration_s, ANSWER_DECIMALS)
    frame_rate = None if clip.frame_rate is None else round(clip.frame_rate, ANSWER_DECIMALS)
    return replace(clip, duration_s=duration_s, frame_rate=frame_rate)


def _rounded_frame(frame: FrameMasks) -> FrameMasks:
    return replace(
        frame,
        sample_time_s=round(float(frame.sample_time_s), ANSWER_DECIMALS),
        timestamp_s=round(float(frame.timestamp_s), ANSWER_DECIMALS),
        index=int(frame.index),
    )


def _end_with_task(spool: AnswerSpool, work: asyncio.Task[None]) -> None:
    """However the work ended, its reader is told."""
    if work.cancelled():
        spool.end(ServiceError("client_gone", "The answer was given up."))
        return
    error = work.exception()
    if error is not None:
        spool.end(error)
