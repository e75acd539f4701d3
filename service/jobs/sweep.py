"""Delete what is left of ended jobs and of old answers."""

from __future__ import annotations

import asyncio
import logging

from service.answers.idempotency import ANSWERS
from service.domain.errors import ServiceError
from service.jobs.parts import JobPolicy, RunnerParts

logger = logging.getLogger(__name__)


async def sweep_forever(parts: RunnerParts, policy: JobPolicy) -> None:
    """Delete ended jobs, answers of idempotency keys and orphaned blobs at the intervals of the policy."""
    while True:
        try:
            for job_id in await parts.store.sweep():
                await parts.blobs.delete_all(f"jobs/{job_id}")
            await parts.blobs.delete_all(ANSWERS, older_than_s=policy.keep_answers_s)
            await parts.blobs.delete_all("jobs", older_than_s=policy.keep_blobs_s)
            if parts.measure is not None:
                await parts.measure()
        except ServiceError:
            logger.info("ended jobs could not be cleaned up")
        except Exception:
            logger.exception("cleaning up ended jobs failed")
        await asyncio.sleep(policy.sweep_s)
