"""The data path: decode -> chunks -> segment -> frames in order -> summary.

An answer is an async generator of events. Its work runs in one task group behind it, so that any end of the answer (the
reader leaves, a deadline passes, something fails) ends all of it: the decoder child, the queued chunks, the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace

from service.aio.byte_budget import ByteBudget
from service.aio.tasks import end_tasks, first_error
from service.aio.waits import bounded_wait
from service.core.admission import Admission
from service.core.answer_spool import AnswerSpool, AnswerSpoolPolicy
from service.core.chunker import ChunkPolicy, chunks_of
from service.core.instance_stage import instance_tracker, keep_state, track_chunk
from service.core.timings import Timings
from service.domain.chunk import Chunk, MaskPolicy, SampleBlock, SegmentedChunk
from service.domain.clip import ClipInfo
from service.domain.deadline import Clock, deadline_exceeded
from service.domain.errors import ServiceError
from service.domain.options import SegmentOptions
from service.domain.request import AnswerEvent, ClipStarted, RequestContext
from service.domain.result import ANSWER_DECIMALS, FrameMasks, Summary
from service.media.decoders.pool import ClipReader, DecoderPool, Lend
from service.media.policy import DecodeRequest
from service.media.spool import Spool
from service.media.upload import Upload
from service.ports import AnswerSink, Segmenter
from service.postprocess.instances import InstanceTracker
from service.postprocess.stages import AnswerStages
from service.telemetry.metrics import Metrics
from service.telemetry.traces import NO_TRACES, Traces

# More bytes than any upload has. Waiting for them means waiting for the end of the upload.
_ALL = 1 << 62


@dataclass(frozen=True, slots=True)
class PipelinePolicy:
    """Limits of one request's work and of the decoded bytes of all requests.

    Attributes:
        max_growing: uploads that are decoded while they grow, each in a decoder child that mostly waits. Uploads beyond
            it are decoded when they are complete.
    """

    max_queued_bytes: int
    max_outstanding_chunks: int = 4
    max_growing: int = 16
    chunks: ChunkPolicy = field(default_factory=ChunkPolicy)
    spool: AnswerSpoolPolicy = field(default_factory=AnswerSpoolPolicy)


@dataclass(slots=True)
class _Flow:
    """State shared by the two sides of one request: decoding sends chunks, emitting takes their results in order."""

    context: RequestContext
    timings: Timings
    sink: AnswerSink
    places: asyncio.Semaphore
    sent: asyncio.Queue[tuple[Chunk, asyncio.Task[SegmentedChunk]] | None] = field(default_factory=asyncio.Queue)
    tracker: InstanceTracker | None = None
    lend: Lend = nullcontext
    num_chunks: int = 0
    budget_bytes: int = 0
    audio_notes: tuple[str, ...] = ()

    def next_chunk(self, samples: SampleBlock, masks: MaskPolicy, *, checkpoint: str) -> Chunk:
        """Return the samples as the request's next chunk."""
        self.num_chunks += 1
        return Chunk(
            request_id=self.context.request_id,
            chunk_no=self.num_chunks - 1,
            samples=samples,
            masks=masks,
            deadline=self.context.deadline,
            is_interactive=self.context.is_interactive,
            checkpoint=checkpoint,
        )


class Pipeline:
    """Answers uploads, for all transports. Implements `ports.Answering`.

    Args:
        segmenter: chunks to masks.
        decoders: uploads to samples.
        spool: room for answers that wait to be read.
        policy: limits.
        metrics: stage times.
        clock: seconds, monotonic.
        admission: places for work, and samples by caller; None if nothing else works.
        traces: spans.
    """

    def __init__(
        self,
        *,
        segmenter: Segmenter,
        decoders: DecoderPool,
        spool: Spool,
        policy: PipelinePolicy,
        metrics: Metrics,
        clock: Clock,
        admission: Admission | None = None,
        traces: Traces = NO_TRACES,
    ) -> None:
        self._segmenter = segmenter
        self._decoders = decoders
        self._spool = spool
        self._admission = admission
        self._growing = asyncio.Semaphore(policy.max_growing)
        self._policy = policy
        self._metrics = metrics
        self._clock = clock
        self._traces = traces
        self._budget = ByteBudget(policy.max_queued_bytes)

    async def check(self, options: SegmentOptions) -> None:
        """Raise `warming_up` if there is no model yet, `bad_option` for labels that the model does not know."""
        options.resolve(await self._segmenter.describe())

    async def answer(
        self, upload: Upload, options: SegmentOptions, context: RequestContext
    ) -> AsyncGenerator[AnswerEvent, None]:
        """Yield the answer to an upload, which may still be growing.

        Closing the generator ends all its work. The upload's bytes are freed when the work ends, so that a slow reader
        occupies neither an upload nor a decoder.

        Yields:
            one ClipStarted, FrameMasks in order with SoundEvents between them, one Summary.

        Raises:
            ServiceError: any code of decoding and segmenting; `deadline_exceeded`.
        """
        spool = AnswerSpool(self._policy.spool, self._spool, party=context.caller.party)
        stages = AnswerStages(options)
        work = asyncio.create_task(self.run(upload, options, context, spool), name=f"answer {context.request_id}")
        try:
            async for event in spool.events():
                for staged in stages.add(event):
                    yield staged
        finally:
            await end_tasks([work])
            spool.close()

    async def run(self, upload: Upload, options: SegmentOptions, context: RequestContext, sink: AnswerSink) -> None:
        """Write the masks of an upload to a sink, decoding and segmenting side by side. Every end reaches the sink.

        Cancelling the call ends all work for the answer.
        """
        timings = Timings.of(context, clock=self._clock)
        flow = _Flow(context, timings, sink, asyncio.Semaphore(self._policy.max_outstanding_chunks))

        def late() -> ServiceError:
            return deadline_exceeded(timings.stage)

        try:
            async with (
                bounded_wait(context.deadline.timeout_s(self._clock), late),
                self._placed(upload, flow),
                asyncio.TaskGroup() as group,
            ):
                emitting = group.create_task(self._emit(flow))
                await self._decode(upload, options, flow, group)
                timings.stage = "prediction"
            upload.drop()
            timings.observe(self._metrics)
            sink.end(Summary(emitting.result(), timings.summary(), audio_notes=flow.audio_notes))
        except ExceptionGroup as group_error:
            sink.end(first_error(group_error, ServiceError))
        except Exception as error:
            sink.end(error)
        except asyncio.CancelledError:
            sink.end(ServiceError("client_gone", "The answer was cancelled."))
            raise
        finally:
            self._budget.release(flow.budget_bytes)

    @asynccontextmanager
    async def _placed(self, upload: Upload, flow: _Flow) -> AsyncIterator[None]:
        """Hold a place for the work on an upload. The place is lent to others while the upload has to grow.

        Jobs need no place: their runner limits them, and their samples yield to interactive requests.
        """
        timings = flow.timings
        async with self._ready(upload, timings):
            if self._admission is None or not flow.context.is_interactive:
                timings.stage = "decoding"
                yield
                return
            timings.stage = "queue"
            since_s = self._clock()
            async with self._admission.places.place(flow.context.caller) as place:
                timings.queue_s += self._clock() - since_s
                timings.stage = "decoding"
                flow.lend = place.lent
                yield

    @asynccontextmanager
    async def _ready(self, upload: Upload, timings: Timings) -> AsyncIterator[None]:
        """Wait until the work on an upload can start: it is complete, or it grows and is one of few that may."""
        timings.stage = "upload"
        if upload.is_complete or self._growing.locked():
            await upload.wait_for(_ALL)
            yield
            return
        async with self._growing:
            await upload.wait_for(1)
            yield

    async def _decode(self, upload: Upload, options: SegmentOptions, flow: _Flow, group: asyncio.TaskGroup) -> None:
        """Decode the upload and send its chunks. The decoder is released when the last chunk has left."""
        model = await self._segmenter.describe()
        applied = options.resolve(model)
        request = DecodeRequest(
            options=applied,
            is_job=flow.context.transport == "job",
            frame_height=model.input_height,
            frame_width=model.input_width,
            heard_from_s=flow.context.heard_from_s,
        )
        since_s = self._clock()
        with self._traces.span("decode", parent=flow.context.traceparent) as span:
            async with self._decoders.open(upload, request, deadline=flow.context.deadline, lend=flow.lend) as reader:
                waited_s = reader.waited_s
                flow.timings.note_decoder(waited_s=waited_s, opened_s=self._clock() - since_s)
                flow.sink.put(ClipStarted(flow.context.request_id, model, _rounded_clip(reader.clip), applied))
                flow.tracker = instance_tracker(applied, flow.context)
                source_size = (reader.clip.height, reader.clip.width)
                masks = MaskPolicy.of(applied, source_size=source_size, model=model)
                with self._segmenter.expect(flow.context.request_id):
                    async with aclosing(self._chunks(reader, flow)) as chunks:
                        async for samples in chunks:
                            await flow.places.acquire()  # waits while too many chunks of this request are outstanding
                            chunk = flow.next_chunk(samples, masks, checkpoint=model.checkpoint)
                            flow.sent.put_nowait((chunk, group.create_task(self._segment(chunk, flow))))
                if reader.clip.audio is not None:
                    flow.audio_notes = reader.clip.audio.notes or ()
            flow.sent.put_nowait(None)
            span.set(waited_s=round(waited_s, ANSWER_DECIMALS), num_chunks=flow.num_chunks)

    def _chunks(self, reader: ClipReader, flow: _Flow) -> AsyncGenerator[SampleBlock, None]:
        blocks = self._budgeted(flow.timings.decoding(reader.blocks()), flow)
        return chunks_of(blocks, is_idle=self._segmenter.is_idle, policy=self._policy.chunks, clock=self._clock)

    async def _budgeted(self, blocks: AsyncIterator[SampleBlock], flow: _Flow) -> AsyncIterator[SampleBlock]:
        """Yield the same blocks; each counts against the budget of decoded bytes until its chunk is answered."""
        async for block in blocks:
            await self._budget.acquire(block.frames.nbytes)
            flow.budget_bytes += block.frames.nbytes
            yield block

    async def _segment(self, chunk: Chunk, flow: _Flow) -> SegmentedChunk:
        parent = flow.context.traceparent
        attributes = {"chunk_no": chunk.chunk_no, "num_samples": len(chunk.samples)}
        try:
            with self._traces.span("chunk", parent=parent, kind="producer", **attributes) as span:
                segmented = await self._segmenter.segment(chunk.under(span.traceparent))
                if self._admission is not None:
                    self._admission.usage.add_samples(flow.context.caller, len(segmented.frames))
                return segmented
        finally:
            if flow.tracker is None:
                self._release(chunk, flow)

    def _release(self, chunk: Chunk, flow: _Flow) -> None:
        """Give the bytes of a chunk's pictures back to the budget."""
        num_bytes = chunk.samples.frames.nbytes
        flow.budget_bytes -= num_bytes
        self._budget.release(num_bytes)

    async def _emit(self, flow: _Flow) -> int:
        """Write the frames to the sink in order and return their number."""
        num_samples = 0
        while (sent := await flow.sent.get()) is not None:
            chunk, segmenting = sent
            segmented = await segmenting
            flow.timings.add(segmented)
            for frame in await self._frames(chunk, segmented, flow):
                flow.sink.put(_rounded_frame(frame))
            num_samples += len(segmented.frames)
            flow.places.release()
        return num_samples

    async def _frames(self, chunk: Chunk, segmented: SegmentedChunk, flow: _Flow) -> Sequence[FrameMasks]:
        """Return the frames of a chunk, their masks separated into instances where that is asked for."""
        if flow.tracker is None:
            return segmented.frames
        frames = await asyncio.to_thread(track_chunk, flow.tracker, chunk, segmented)
        self._release(chunk, flow)
        keep_state(flow.tracker, frames, flow.context)
        return frames


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
