"""Jobs as JSON: the record that stores keep, and the state for callers and webhooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter, ValidationError

from service.domain.errors import ServiceError
from service.domain.job import Job, JobState, ResultPut
from service.domain.result import ANSWER_DECIMALS, SoundEvent

# Members of a JobStatus that may be absent.
OPTIONAL_MEMBERS: Final = ("error", "webhook_secret", "num_events", "events", "result_put")


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Error of a failed job: a stable code and a detail."""

    code: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class JobEvents:
    """The events of a finished job for its webhook: the first ones, and their number."""

    listed: tuple[SoundEvent, ...]
    num_events: int


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The state of a job. Times are seconds since 1970."""

    job_id: str
    request_id: str
    state: JobState
    progress: float = field(metadata={"description": "Share of the samples that are answered, 0 to 1."})
    created_at_s: float
    started_at_s: float | None
    ended_at_s: float | None
    error: JobFailure | None = field(default=None, metadata={"description": "Only in a failed job."})
    webhook_secret: str | None = field(
        default=None,
        metadata={"description": "Key of the webhook's signature; only in the answer to the submission."},
    )

    num_events: int | None = field(
        default=None, metadata={"description": "Number of events; only in the webhook of a finished job."}
    )
    events: tuple[SoundEvent, ...] | None = field(
        default=None, metadata={"description": "The first 1000 events; only in the webhook of a finished job."}
    )

    result_put: ResultPut | None = field(
        default=None,
        metadata={"description": "Only in a job with `result_url`: whether its result has been put there."},
    )

    @classmethod
    def of(cls, job: Job, *, has_secret: bool = False, events: JobEvents | None = None) -> JobStatus:
        """Return the state of a job, with its webhook's secret or its events where given."""
        return cls(
            job_id=job.job_id,
            request_id=job.request_id,
            state=job.state,
            progress=round(job.progress, ANSWER_DECIMALS),
            created_at_s=round(job.created_at_s, ANSWER_DECIMALS),
            started_at_s=_rounded(job.started_at_s),
            ended_at_s=_rounded(job.ended_at_s),
            error=None if job.code is None else JobFailure(job.code, job.detail),
            webhook_secret=job.webhook_secret if has_secret else None,
            num_events=None if events is None else events.num_events,
            events=None if events is None else events.listed,
            result_put=job.result_put,
        )

    @classmethod
    def decode(cls, data: bytes) -> JobStatus:
        """Return the status of a JSON document; raises ServiceError `backend_down` for anything else."""
        try:
            return _STATUS.validate_json(data)
        except ValidationError:
            raise ServiceError("backend_down", "The server's answer is not of this service's protocol.") from None

    def encode(self) -> bytes:
        """Return the JSON bytes; optional members are left out if empty."""
        absent = {name for name in OPTIONAL_MEMBERS if getattr(self, name) is None}
        return bytes(_STATUS.dump_json(self, exclude=absent))


def encode_job(job: Job) -> bytes:
    """Return the stored record of a job."""
    return _JOB.dump_json(job)


def decode_job(data: bytes) -> Job:
    """Return the job of a stored record, also of an older one that lacks fields; raises ServiceError `internal`."""
    try:
        return _JOB.validate_json(data)
    except (ValidationError, ServiceError) as error:
        raise ServiceError("internal", "A stored job could not be read.") from error


def _rounded(time_s: float | None) -> float | None:
    return None if time_s is None else round(time_s, ANSWER_DECIMALS)


_JOB: Final = TypeAdapter(Job)
_STATUS: Final = TypeAdapter(JobStatus)
