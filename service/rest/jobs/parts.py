"""Parts that the routes of jobs share, and ids of jobs and events."""

from __future__ import annotations

import re
from dataclasses import dataclass

from service.answers.idempotency import Idempotency
from service.domain.errors import ServiceError
from service.jobs.api import Jobs
from service.rest.parts import RestParts

JOB_ID = re.compile(r"[0-9a-f]{32}")
EVENT_ID = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class JobRouteParts:
    """Parts of the job routes, beside those of every route."""

    rest: RestParts
    jobs: Jobs
    idempotency: Idempotency


def checked_id(job_id: str) -> str:
    """Return the id. Raises `job_not_found` if no job can have it."""
    if not JOB_ID.fullmatch(job_id):
        raise ServiceError("job_not_found", "There is no such job.")
    return job_id
