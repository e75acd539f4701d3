"""Build the components that all transports share: decoders, segmenter, admission, pipeline, Redis connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from service.aio.turns import Turns
from service.batching.segmenter import LocalSegmenter
from service.core.admission import Admission
from service.core.pipeline import Pipeline
from service.core.request_log import RequestLog
from service.domain.deadline import Clock
from service.media.core_use import CoreUse
from service.media.decoders.pool import DecoderPool
from service.media.spool import Spool
from service.ports import Segmenter
from service.predictors.torch import usable_cores
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.traces import Traces
from service.wiring.links import build_traces, redis_links
from service.wiring.policies import admission_policy, media_policy, pipeline_policy
from service.wiring.predictor import MakePredictor, batch_policy, has_gpu, predictor_maker


@dataclass(frozen=True, slots=True)
class Core:
    """Components that all transports share."""

    metrics: Metrics
    traces: Traces
    clock: Clock
    spool: Spool
    turns: Turns
    decoders: DecoderPool
    segmenter: Segmenter
    admission: Admission
    request_log: RequestLog
    pipeline: Pipeline


@asynccontextmanager
async def build_core(settings: Settings, *, make_predictor: MakePredictor | None = None) -> AsyncIterator[Core]:
    """Build the core, with running decoders and a segmenter that is not started yet.

    Args:
        settings: effective settings.
        make_predictor: loads the model on the device thread; None loads the checkpoint named in the settings.
    """
    clock = time.monotonic
    metrics = Metrics()
    num_cores = usable_cores()
    cores = CoreUse(decoders_to_fill(num_cores, settings.num_decoders), num_cores=num_cores)
    async with AsyncExitStack() as stack:
        decoders = DecoderPool(
            media_policy(settings),
            job_policy=media_policy(settings).for_length(settings.job_max_clip_s),
            num_decoders=settings.num_decoders,
            max_live_streams=settings.max_live_streams,
            clock=clock,
            metrics=metrics,
            cores=cores,
        )
        stack.push_async_callback(decoders.aclose)
        if make_predictor is None and settings.redis_url is None:
            _import_model_meanwhile(stack, is_cpu=not has_gpu(settings.device))
        await decoders.start()
        traces = build_traces(settings, stack, service="avesformer-front", clock=clock)
        segmenter = _build_segmenter(
            settings, stack, make_predictor, metrics=metrics, clock=clock, traces=traces, cores=cores
        )
        stack.push_async_callback(segmenter.aclose)
        admission = Admission(
            admission_policy(settings),
            metrics=metrics,
            clock=clock,
            predicted_wait_s=lambda: segmenter.predicted_wait_s(1),
        )
        spool = Spool(settings.spool_dir, max_bytes=settings.spool_bytes, on_received=admission.usage.add_bytes)
        spool.probe()
        turns = Turns(clock=clock, is_busy=lambda: admission.is_working)
        pipeline = Pipeline(
            segmenter=segmenter,
            decoders=decoders,
            spool=spool,
            admission=admission,
            policy=pipeline_policy(settings),
            metrics=metrics,
            clock=clock,
            traces=traces,
        )
        yield Core(
            metrics=metrics,
            traces=traces,
            clock=clock,
            spool=spool,
            turns=turns,
            decoders=decoders,
            segmenter=segmenter,
            admission=admission,
            request_log=RequestLog(metrics=metrics, clock=clock, traces=traces, usage=admission.usage),
            pipeline=pipeline,
        )


def decoders_to_fill(num_cores: int, num_decoders: int) -> int:
    """Return the decoders that keep all cores busy: two per core, since each waits at times; all where fewer may run.

    With fewer decoders than cores, cores are always free.
    """
    return min(2 * num_cores, max(num_cores, num_decoders))


def _import_model_meanwhile(stack: AsyncExitStack, *, is_cpu: bool) -> None:
    """Import torch on a thread while the decoders start, because neither needs the whole machine."""
    from service.predictors.torch import import_model

    importing = asyncio.create_task(asyncio.to_thread(import_model, is_cpu=is_cpu), name="import of the model")
    stack.push_async_callback(asyncio.wait, {importing})


def _build_segmenter(
    settings: Settings,
    stack: AsyncExitStack,
    make_predictor: MakePredictor | None,
    *,
    metrics: Metrics,
    clock: Clock,
    traces: Traces,
    cores: CoreUse,
) -> Segmenter:
    """Return a segmenter on the local device, or one that sends chunks to workers if a Redis URL is set.

    redis-py is imported only if a Redis URL is set.
    """
    if settings.redis_url is None:
        return LocalSegmenter(
            make_predictor or predictor_maker(settings),
            batch_policy(settings),
            metrics=metrics,
            clock=clock,
            traces=traces,
            cores=cores,
        )
    from service.redis.segmenter import RedisSegmenter, RedisSegmenterPolicy

    jobs, data = redis_links(settings, stack)
    policy = RedisSegmenterPolicy(max_outstanding_bytes=settings.redis_max_bytes)
    return RedisSegmenter(jobs, data, policy, metrics=metrics, clock=clock)
