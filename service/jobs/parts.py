"""Limits of the job runner, and the components that it uses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass

from service.core.request_log import RequestLog
from service.domain.caller import Caller
from service.domain.job import Job, ResultPut
from service.media.spool import Spool
from service.ports import Answering, JobStore
from service.storage.blobs import Blobs


@dataclass(frozen=True, slots=True)
class JobPolicy:
    """Limits and intervals of the job runner.

    Attributes:
        lease_s: duration of a lease; a job that is not saved for this long can be claimed by another process.
        num_parallel: most jobs in progress in this process. Their samples have a lower priority than requests.
        num_deliveries: most webhooks in delivery, in addition to the jobs in progress.
        flush_bytes, flush_s: a part of the answer is stored at this size or age.
        poll_s: interval at which the queue is polled.
        retry_for_s: retryable failures are retried while the job is younger than this.
        sweep_s: interval at which ended jobs are cleaned up.
        keep_answers_s: age at which stored answers of idempotency keys are deleted.
        keep_blobs_s: age at which blobs without a job are deleted (a crash between two steps leaves them). Much longer
            than any job lives.
    """

    lease_s: float
    num_parallel: int = 2
    num_deliveries: int = 16
    flush_bytes: int = 256 * 1024
    flush_s: float = 1.0
    poll_s: float = 1.0
    retry_for_s: float = 3600.0
    sweep_s: float = 60.0
    keep_answers_s: float = 86_400.0
    keep_blobs_s: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class RunnerParts:
    """Components that the runner uses.

    Attributes:
        deliver_webhook: sends the webhook of an ended job; does not raise.
        send_result: puts the result of an ended job to its `result_url` and returns how that went; does not raise.
        caller_of: returns the caller with a key id.
        measure: measures the state disk again, because other processes may write to it; None without one.
    """

    store: JobStore
    blobs: Blobs
    answering: Answering
    spool: Spool
    request_log: RequestLog
    deliver_webhook: Callable[[Job], Awaitable[None]]
    send_result: Callable[[Job], Coroutine[None, None, ResultPut]]
    caller_of: Callable[[str], Caller] = lambda key_id: Caller(key_id=key_id)
    measure: Callable[[], Awaitable[None]] | None = None
