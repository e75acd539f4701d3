"""The models that live workers run, and the choice of one for new requests."""

from __future__ import annotations

import asyncio
from collections import Counter

from service.domain.deadline import Clock
from service.domain.errors import ServiceError
from service.domain.result import ModelInfo
from service.redis.link import backend_down
from service.redis.model_directory import WorkerDirectory
from service.telemetry.metrics import Metrics


class ServedModels:
    """A front's choice among the models of the live workers. The chosen model stays while a worker runs it.

    Args:
        directory: the live workers.
        metrics: `worker_up` counts live workers.
        clock: seconds, monotonic.
        grace_s: time without any worker, such as during a restart, in which a model still counts as served.
    """

    def __init__(self, directory: WorkerDirectory, *, metrics: Metrics, clock: Clock, grace_s: float) -> None:
        self._directory = directory
        self._metrics = metrics
        self._clock = clock
        self._grace_s = grace_s
        self._model: ModelInfo | None = None
        self._has_model = asyncio.Event()
        self._live: Counter[ModelInfo] = Counter()
        self._last_seen_s: dict[str, float] = {}

    @property
    def has_model(self) -> bool:
        """Return whether a worker has ever been live."""
        return self._model is not None

    @property
    def num_workers(self) -> int:
        """Return the number of live workers that run the chosen model."""
        return 0 if self._model is None else self._live[self._model]

    async def wait_for_first(self) -> None:
        """Wait until a worker has been live, without a timeout."""
        await self._has_model.wait()

    async def refresh(self) -> None:
        """Read the live workers; choose the model of most of them if the chosen one has none. Raises `backend_down`."""
        self._live = await self._directory.live_models()
        now_s = self._clock()
        for model in self._live:
            self._last_seen_s[model.checkpoint] = now_s
        self._metrics.worker_up.set(sum(self._live.values()))
        if self._live and (self._model is None or self._model not in self._live):
            self._model = min(self._live, key=lambda model: (-self._live[model], model.checkpoint))
            self._has_model.set()

    async def choose(self) -> ModelInfo:
        """Return the chosen model; raises `warming_up` before the first worker, `backend_down` without any."""
        if self._model is None or not self.is_served(self._model):
            await self.refresh()
        if self._model is None:
            raise ServiceError("warming_up", "No worker has started yet; try again.", retry_after_s=5.0)
        if not self.is_served(self._model):
            raise backend_down()
        return self._model

    async def of_checkpoint(self, checkpoint: str) -> ModelInfo:
        """Return the model of a checkpoint, the chosen one for an empty name; raises as `choose` does."""
        for model in self._live:
            if model.checkpoint == checkpoint:
                return model
        model = await self.choose()
        if checkpoint not in ("", model.checkpoint):
            raise backend_down()  # a rolling upgrade has removed the last worker of that checkpoint
        return model

    def is_served(self, model: ModelInfo) -> bool:
        """Return whether a worker runs the model, or did so within the grace time."""
        if self._live[model]:
            return True
        seen_s = self._last_seen_s.get(model.checkpoint)
        return seen_s is not None and self._clock() - seen_s <= self._grace_s
