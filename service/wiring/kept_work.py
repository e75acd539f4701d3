"""Build the result cache, the idempotency keys and the jobs around the pipeline."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.answers.idempotency import Idempotency, IdempotentAnswering
from service.answers.result_cache import CachedAnswers, CachePolicy
from service.domain.caller import Caller
from service.jobs.api import Jobs
from service.jobs.parts import JobPolicy, RunnerParts
from service.jobs.results import ResultPolicy, ResultSender
from service.jobs.runner import JobRunner
from service.jobs.webhooks import WebhookPolicy, Webhooks
from service.outbound.put import PutPolicy, Putter
from service.ports import Answering, JobStore, KeyStore, ResultCache
from service.settings import Settings
from service.storage.blobs import Blobs
from service.storage.cache import MemoryCache
from service.storage.jobs import FolderJobStore
from service.storage.keys import FolderKeyStore
from service.storage.room import StateRoom
from service.wiring.core import Core
from service.wiring.policies import hosts_of

if TYPE_CHECKING:
    from service.redis.link import RedisLink

logger = logging.getLogger(__name__)

# Most queued jobs; further ones are refused as `queue_full`.
_MAX_WAITING_JOBS = 1000
# One answer may take at most 1 / this of the cache.
_MAX_ENTRY_SHARE = 8
# Age in seconds after which blobs without a job are deleted; longer than any job waits or runs.
_ORPHANS_KEPT_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class KeptWork:
    """Result cache, idempotency keys and jobs. Requests with an idempotency key go to `idempotent_answering`."""

    answering: Answering
    idempotent_answering: Answering
    jobs: Jobs
    idempotency: Idempotency
    runner: JobRunner


def build_kept_work(
    settings: Settings,
    core: Core,
    links: tuple[RedisLink, RedisLink] | None,
    stack: AsyncExitStack,
    *,
    caller_of: Callable[[str], Caller],
) -> KeptWork:
    """Build the result cache, the idempotency keys and the jobs. The job runner is not started.

    Args:
        settings: effective settings.
        core: the shared components.
        links: Redis of jobs and Redis of chunk data; None without Redis.
        stack: closes the components.
        caller_of: returns the caller with a key id.
    """
    # With Redis and a blob store nothing is written to the state folder, which may then be read-only.
    folder = None if links is not None and settings.blob_url else _state_folder(settings, stack)
    blobs_at = settings.blob_url or _known(folder) / "blobs"
    room = _state_room(settings, folder, blobs_at)
    blobs = Blobs(blobs_at, room=room)
    store, keys, cache = _stores(settings, links, folder, room)
    idempotency = Idempotency(keys, ttl_s=settings.idempotency_ttl_s)
    answering = _cached(settings, core, cache)
    webhooks = Webhooks(
        WebhookPolicy(
            private_hosts=frozenset(host.strip() for host in settings.webhook_hosts.split(",") if host.strip())
        ),
        wall_clock=time.time,
    )
    putter = Putter(PutPolicy(hosts_of(settings.result_hosts)))
    jobs = Jobs(
        store,
        blobs,
        max_waiting=_MAX_WAITING_JOBS,
        check_webhook=webhooks.check,
        check_result_url=putter.check,
        turns=core.turns,
        wall_clock=time.time,
    )
    results = ResultSender(
        jobs,
        core.decoders.draw,
        putter,
        core.spool,
        ResultPolicy(max_bytes=settings.max_answer_bytes, max_upload_bytes=settings.max_upload_bytes),
        clock=time.monotonic,
    )
    runner = JobRunner(
        RunnerParts(
            store,
            blobs,
            answering,
            core.spool,
            core.request_log,
            webhooks.deliver,
            results.send,
            caller_of,
            room.measure,
        ),
        JobPolicy(
            lease_s=settings.lease_s,
            keep_answers_s=settings.idempotency_ttl_s,
            keep_blobs_s=settings.job_ttl_s + _ORPHANS_KEPT_S,
        ),
        max_upload_bytes=settings.max_upload_bytes,
        clock=time.monotonic,
        wall_clock=time.time,
    )
    webhooks.events_of = jobs.sound_events
    jobs.on_added, jobs.on_erased, jobs.seconds_per_job = runner.wake, runner.drop, runner.seconds_per_job
    stack.push_async_callback(runner.aclose)
    idempotent = IdempotentAnswering(answering, idempotency, blobs, core.spool, turns=core.turns, clock=time.monotonic)
    return KeptWork(answering, idempotent, jobs, idempotency, runner)


def _stores(
    settings: Settings, links: tuple[RedisLink, RedisLink] | None, folder: Path | None, room: StateRoom
) -> tuple[JobStore, KeyStore, ResultCache]:
    if links is None:
        return (
            FolderJobStore(_known(folder) / "jobs", ttl_s=settings.job_ttl_s, wall_clock=time.time, room=room),
            FolderKeyStore(_known(folder) / "idempotency.jsonl", wall_clock=time.time, room=room),
            MemoryCache(max_bytes=settings.cache_bytes, ttl_s=settings.cache_ttl_s, clock=time.monotonic),
        )
    from service.redis.cache import RedisCache
    from service.redis.jobs import RedisJobStore
    from service.redis.keys import RedisKeyStore

    jobs, data = links
    return (
        RedisJobStore(jobs, ttl_s=settings.job_ttl_s, lease_s=settings.lease_s),
        RedisKeyStore(jobs),
        RedisCache(data, max_bytes=settings.cache_bytes, ttl_s=settings.cache_ttl_s),
    )


def _cached(settings: Settings, core: Core, cache: ResultCache) -> Answering:
    if not settings.cache_bytes:
        return core.pipeline
    policy = CachePolicy(
        dtype=settings.dtype,
        is_shared=settings.cache_shared,
        max_entry_bytes=settings.cache_bytes // _MAX_ENTRY_SHARE,
        max_shared_bytes=settings.spool_bytes,
    )
    return CachedAnswers(
        core.pipeline,
        core.segmenter,
        cache,
        policy,
        spool=core.spool,
        turns=core.turns,
        metrics=core.metrics,
        clock=time.monotonic,
    )


def _state_room(settings: Settings, folder: Path | None, blobs_at: str | Path) -> StateRoom:
    """Return the room of everything that is kept in folders; a blob store behind a URL has its own quota."""
    folders = [] if folder is None else [folder]
    if "://" not in str(blobs_at):
        folders.append(Path(blobs_at))
    return StateRoom(folders, max_bytes=settings.state_bytes)


def _known(folder: Path | None) -> Path:
    assert folder is not None, "a state folder is required without Redis or a blob store"
    return folder


def _state_folder(settings: Settings, stack: AsyncExitStack) -> Path:
    """Return the folder of jobs and blobs: one per port, because processes share neither; else a temporary folder.

    Fronts that share a Redis share the blobs too, so they need a common AVES_BLOB_URL or AVES_STATE_DIR.
    """
    wanted = settings.state_dir or Path.home() / ".local" / "state" / "avesformer"
    if settings.redis_url is None and settings.port:
        wanted = wanted / f"port-{settings.port}"
    if settings.redis_url is not None or settings.port:
        try:
            (wanted / "jobs").mkdir(parents=True, exist_ok=True)
            return wanted
        except OSError as error:
            logger.warning(
                "the state folder cannot be created; jobs will not survive this process",
                extra={"folder": str(wanted), "reason": error.strerror},
            )
    passing = Path(tempfile.mkdtemp(prefix="avesformer-state-"))
    stack.callback(shutil.rmtree, passing, ignore_errors=True)
    return passing
