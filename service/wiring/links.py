"""Connections that a front and a worker both have: Redis, and the collector of traces."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from service.domain.deadline import Clock
from service.settings import Settings
from service.telemetry.traces import NO_TRACES, Traces
from service.wiring.version import service_version

if TYPE_CHECKING:
    from service.redis.link import RedisLink


def build_traces(settings: Settings, stack: AsyncExitStack, *, service: str, clock: Clock) -> Traces:
    """Return the span recorder, closed with the stack. The OpenTelemetry SDK is imported only if a collector is set.

    The SDK starts a thread, so a front calls this after its decoders have been forked.
    """
    if settings.otlp_endpoint is None:
        return NO_TRACES
    from service.telemetry.otlp import OtlpTraces

    traces = OtlpTraces(settings.otlp_endpoint, service=service, version=service_version(), clock=clock)
    stack.push_async_callback(traces.aclose)
    return traces


def redis_links(settings: Settings, stack: AsyncExitStack) -> tuple[RedisLink, RedisLink]:
    """Return links to the Redis of jobs and to that of chunk data, closed with the stack. Does not connect yet."""
    from service.redis.link import RedisLink

    assert settings.redis_url is not None, "called without a Redis URL"
    urls = (settings.redis_url, settings.redis_data_url or settings.redis_url)
    jobs, data = (RedisLink(url.get_secret_value(), clock=time.monotonic) for url in urls)
    stack.push_async_callback(jobs.aclose)
    stack.push_async_callback(data.aclose)
    return jobs, data
