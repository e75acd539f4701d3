"""Directory of live workers: each publishes its model in Redis under a key that expires unless it is renewed.

A worker's name is `host:port/life`, where `life` is new for every process. A worker that shuts down removes its name
from the set of workers. A worker that crashes cannot, so its name stays in the set while its key expires; fronts see
this and count a restart when another life with the same `host:port` is live.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence

from service.domain.result import ModelInfo
from service.redis.link import WORKERS_KEY, RedisLink, worker_name
from service.redis.wire import WireError, decode_model, encode_model
from service.telemetry.metrics import Metrics

# Host and port names of crashed workers to remember until they are back; the oldest are forgotten beyond this.
_MAX_CRASHED_NAMES = 1000


async def publish_model(link: RedisLink, *, worker: str, info: ModelInfo, ttl_s: float) -> None:
    """Announce that `worker` is live and runs `info`. Call again well within `ttl_s`."""
    key = worker_name(worker)
    await link.pipeline([("SET", key, encode_model(info), "PX", int(ttl_s * 1000)), ("SADD", WORKERS_KEY, worker)])


async def withdraw_model(link: RedisLink, *, worker: str, has_failed: bool) -> None:
    """Announce that `worker` takes no more chunks.

    Args:
        link: the Redis of jobs.
        worker: name of this life of the worker.
        has_failed: the worker ends because its device failed. Its name stays in the set, so that fronts count a crash.
    """
    await link.pipeline([("DEL", worker_name(worker)), *([] if has_failed else [("SREM", WORKERS_KEY, worker)])])


class WorkerDirectory:
    """A front's view of the live workers.

    Args:
        link: the Redis of jobs.
        metrics: `worker_restarts_total` counts crashed workers that are live again. Redis tells exactly one of all
            fronts that a name left the set, so the sum over fronts counts each restart once.
    """

    def __init__(self, link: RedisLink, *, metrics: Metrics) -> None:
        self._link = link
        self._metrics = metrics
        self._num_crashes: OrderedDict[str, int] = OrderedDict()

    async def live_models(self) -> Counter[ModelInfo]:
        """Return the models of live workers with the number of workers that run each; forget crashed workers."""
        workers = sorted(name.decode() for name in await self._link.call("SMEMBERS", WORKERS_KEY))
        if not workers:
            await self._link.check_primary()
            return Counter()
        entries = await self._link.call("MGET", *(worker_name(worker) for worker in workers))
        published = dict(zip(workers, entries, strict=True))
        await self._count_restarts(published)
        return Counter(model for entry in entries if (model := _model_of(entry)) is not None)

    async def _count_restarts(self, published: Mapping[str, bytes | None]) -> None:
        for worker in await self._forget([worker for worker, entry in published.items() if entry is None]):
            name = _without_life(worker)
            self._num_crashes[name] = self._num_crashes.pop(name, 0) + 1
            if len(self._num_crashes) > _MAX_CRASHED_NAMES:
                self._num_crashes.popitem(last=False)
        for name in {_without_life(worker) for worker, entry in published.items() if entry is not None}:
            self._metrics.worker_restarts_total.inc(self._num_crashes.pop(name, 0))

    async def _forget(self, workers: Sequence[str]) -> list[str]:
        """Remove names from the set; return those that no other front removed first."""
        if not workers:
            return []
        removed = await self._link.pipeline([("SREM", WORKERS_KEY, worker) for worker in workers])
        return [worker for worker, count in zip(workers, removed, strict=True) if count]


def _without_life(worker: str) -> str:
    return worker.rpartition("/")[0] or worker


def _model_of(entry: bytes | None) -> ModelInfo | None:
    """The published model; None for an expired key or a worker of another wire version (its streams differ, too)."""
    try:
        return None if entry is None else decode_model(entry)
    except WireError:
        return None
