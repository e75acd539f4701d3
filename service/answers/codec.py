"""Jobs and the lines of their answers as JSON: what is kept between processes."""

from __future__ import annotations

from typing import Final

from pydantic import TypeAdapter, ValidationError

from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.request import AnswerEvent, ClipStarted
from service.domain.result import FrameMasks, Summary

_JOB: Final = TypeAdapter(Job)
_KINDS: Final[dict[bytes, TypeAdapter[AnswerEvent]]] = {
    b"C": TypeAdapter(ClipStarted),
    b"F": TypeAdapter(FrameMasks),
    b"S": TypeAdapter(Summary),
}
_LETTERS: Final = {ClipStarted: b"C", FrameMasks: b"F", Summary: b"S"}


def encode_job(job: Job) -> bytes:
    """A job as JSON bytes."""
    return _JOB.dump_json(job)


def decode_job(data: bytes) -> Job:
    """What `encode_job` made, of this version or an older one that lacks fields.

    Raises:
        ServiceError: `internal`, if it is something else.
    """
    try:
        return _JOB.validate_json(data)
    except (ValidationError, ServiceError) as error:
        raise ServiceError("internal", "A stored job could not be read.") from error


def job_shape(job: Job) -> dict[str, object]:
    """What callers and webhooks are told of a job's state; seconds since 1970."""
    shape: dict[str, object] = {
        "job_id": job.job_id,
        "request_id": job.request_id,
        "state": job.state,
        "progress": round(job.progress, 6),
        "created_at_s": round(job.created_at_s, 6),
        "started_at_s": None if job.started_at_s is None else round(job.started_at_s, 6),
        "ended_at_s": None if job.ended_at_s is None else round(job.ended_at_s, 6),
    }
    if job.code is not None:
        shape["error"] = {"code": job.code, "detail": job.detail}
    return shape


def encode_line(event: AnswerEvent) -> bytes:
    """One event of an answer as a line: a letter for its kind, then JSON."""
    letter = _LETTERS[type(event)]
    return letter + _KINDS[letter].dump_json(event) + b"\n"


def decode_lines(data: bytes) -> list[AnswerEvent]:
    """The events of a part; raises ServiceError `internal` for anything else."""
    try:
        return [_KINDS[line[:1]].validate_json(line[1:]) for line in data.splitlines()]
    except (KeyError, ValidationError, ServiceError) as error:
        raise ServiceError("internal", "A stored answer could not be read.") from error
