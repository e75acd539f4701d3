"""Which workers live and which models they run, published in Redis with a time to live."""

from __future__ import annotations

from collections import Counter

from service.domain.result import ModelInfo
from service.redis.link import WORKERS_KEY, RedisLink, worker_name
from service.redis.wire import WireError, decode_model, encode_model


async def publish_model(link: RedisLink, *, worker: str, info: ModelInfo, ttl_s: float) -> None:
    """Say that `worker` lives and runs `info`; to be repeated well within `ttl_s`."""
    key = worker_name(worker)
    await link.pipeline([("SET", key, encode_model(info), "PX", int(ttl_s * 1000)), ("SADD", WORKERS_KEY, worker)])


async def withdraw_model(link: RedisLink, *, worker: str) -> None:
    """Say that `worker` takes no more."""
    await link.pipeline([("DEL", worker_name(worker)), ("SREM", WORKERS_KEY, worker)])


async def live_models(link: RedisLink) -> Counter[ModelInfo]:
    """The models of the workers that live, with the number of workers each; forgets those that ended."""
    workers = sorted(name.decode() for name in await link.call("SMEMBERS", WORKERS_KEY))
    models: Counter[ModelInfo] = Counter()
    if not workers:
        return models
    entries = await link.call("MGET", *(worker_name(worker) for worker in workers))
    gone = [worker for worker, entry in zip(workers, entries, strict=True) if entry is None]
    if gone:
        await link.call("SREM", WORKERS_KEY, *gone)
    for entry in entries:
        if entry is not None:
            try:
                models[decode_model(entry)] += 1
            except WireError:
                continue  # a worker of another making: its stream has another name as well
    return models
