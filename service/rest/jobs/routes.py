"""The routes under /jobs and their description in /openapi.json."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from service.codec.job_json import JobStatus
from service.domain.options import RLE
from service.formats.choose import FORMAT
from service.rest.jobs.answers import JobEventStream, JobResult
from service.rest.jobs.parts import EVENT_ID, JOB_ID, JobRouteParts, checked_id
from service.rest.jobs.submission import JOB_OPTIONS, JobSubmission
from service.rest.openapi.described_route import DescribedRoute
from service.rest.openapi.requests import SECURITY, query_parameters, upload_parameters, upload_request_body
from service.rest.openapi.responses import (
    SEGMENT_CODES,
    answer_response,
    body_response,
    job_events_response,
    problem_responses,
)
from service.rest.requests.request_head import JSON_TYPE

_ASKED = ("unauthenticated", "job_not_found", "job_expired", "backend_down")
# Parameters as /openapi.json describes them; FastAPI takes any text, and the routes check it.
_JobId = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{JOB_ID.pattern}$"})]
_IF_NONE_MATCH: Final = {"If-None-Match": ("The `ETag` of an earlier answer.", {"type": "string"})}
_LAST_EVENT_ID: Final = {
    "Last-Event-ID": ("Id of the last event received.", {"type": "string", "pattern": f"^{EVENT_ID.pattern}$"})
}


def build_jobs_router(parts: JobRouteParts) -> APIRouter:
    """Return the routes under /jobs."""
    router = APIRouter(tags=["jobs"])

    async def submit() -> Response:
        """Hand a clip in and come back for its answer. 202 means that the job will end as done or failed."""
        return JobSubmission(parts)

    async def state(job_id: _JobId, request: Request) -> Response:
        """State (queued, running, done, failed, cancelled), progress from 0 to 1, times in seconds since 1970."""
        with _recorded(parts, request) as owner:
            job = await parts.jobs.get(checked_id(job_id), owner=owner)
            headers = {"Content-Type": JSON_TYPE, "Cache-Control": "no-store"}
            return Response(JobStatus.of(job).encode(), headers=headers)

    async def result(job_id: _JobId) -> Response:
        """The answer of POST /segment; a failed job's own problem; 409 before the end."""
        return JobResult(parts, job_id)

    async def events(job_id: _JobId) -> Response:
        """Server-sent events `progress`, `frame`, `event`, `done`, `failed`; `Last-Event-ID` resumes."""
        return JobEventStream(parts, job_id)

    async def erase(job_id: _JobId, request: Request) -> Response:
        """Cancel the job and erase everything that is kept of it."""
        with _recorded(parts, request) as owner:
            await parts.jobs.erase(checked_id(job_id), owner=owner)
            return Response(status_code=204)

    asked = problem_responses(*_ASKED)
    pending = problem_responses(*SEGMENT_CODES, "job_not_found", "job_expired", "job_not_ready")
    router.add_api_route(
        "/jobs",
        submit,
        methods=["POST"],
        status_code=202,
        response_class=Response,
        summary="Hand in a job",
        responses=body_response(202, "The job.", JobStatus, headers={"Location": "Path of the job."})
        | problem_responses(*SEGMENT_CODES),
        dependencies=[upload_parameters(*JOB_OPTIONS)],
        openapi_extra={"requestBody": upload_request_body(*JOB_OPTIONS), "security": SECURITY},
        route_class_override=DescribedRoute,
    )
    add = partial(router.add_api_route, response_class=Response, openapi_extra={"security": SECURITY})
    state_body = body_response(200, "The job.", JobStatus)
    add("/jobs/{job_id}", state, methods=["GET"], responses=state_body | asked)
    add("/jobs/{job_id}", erase, methods=["DELETE"], status_code=204, responses=asked)
    add(
        "/jobs/{job_id}/result",
        result,
        methods=["GET"],
        responses=answer_response(has_etag=True) | pending,
        dependencies=[query_parameters(FORMAT, RLE, headers=_IF_NONE_MATCH)],
    )
    add(
        "/jobs/{job_id}/events",
        events,
        methods=["GET"],
        responses=job_events_response() | problem_responses(*_ASKED, "bad_option"),
        dependencies=[query_parameters(headers=_LAST_EVENT_ID)],
    )
    return router


@contextmanager
def _recorded(parts: JobRouteParts, request: Request) -> Iterator[str]:
    """Record a short request and yield the id of its caller's key."""
    with parts.rest.recorded(request.scope) as record:
        yield parts.rest.identify(request.scope, record).key_id
