"""POST /jobs and the routes of a job."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter
from pydantic import WithJsonSchema
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.answers.idempotency import Idempotency, key_scope
from service.codec.answer_json import encode_event, encode_frame
from service.codec.job_json import JobStatus
from service.core.request_log import RequestRecord
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.option_table import Option
from service.domain.option_types import Choice, Url
from service.domain.options import RLE
from service.formats.choose import FORMAT
from service.jobs.api import JobEvent, JobRequest, Jobs
from service.jobs.results import RESULT_FORMATS
from service.rest.exchange import exchange
from service.rest.openapi.described_route import DescribedRoute
from service.rest.openapi.requests import SECURITY, query_parameters, upload_parameters, upload_request_body
from service.rest.openapi.responses import (
    SEGMENT_CODES,
    answer_response,
    body_response,
    job_events_response,
    problem_responses,
)
from service.rest.parts import RestParts
from service.rest.requests.intake import ended_by_disconnect
from service.rest.requests.request_head import JSON_TYPE, RequestHead, answer_type, merge_options, parse_query
from service.rest.responses.formats import ChosenFormat, send_answer, take_format
from service.rest.responses.sender import Sender
from service.rest.segment import AcceptedRequest, UploadIntake

_ASKED = ("unauthenticated", "job_not_found", "job_expired", "backend_down")
_JOB_ID = re.compile(r"[0-9a-f]{32}")
_EVENT_ID = re.compile(r"[0-9]{1,9}")
# Parameters as /openapi.json describes them; FastAPI takes any text, and the routes check it.
_JobId = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{_JOB_ID.pattern}$"})]
_IF_NONE_MATCH: Final = {"If-None-Match": ("The `ETag` of an earlier answer.", {"type": "string"})}
_LAST_EVENT_ID: Final = {
    "Last-Event-ID": ("Id of the last event received.", {"type": "string", "pattern": f"^{_EVENT_ID.pattern}$"})
}
_WEBHOOK = Option(
    name="webhook",
    type=Url(),
    default=None,
    default_help="none",
    help="Address that gets the job's end by POST, signed with the `webhook_secret` of this answer.",
)

_RESULT_URL = Option(
    name="result_url",
    type=Url(),
    default=None,
    default_help="none",
    help="Address that the result is put to when the job is done; see AVES_RESULT_HOSTS.",
)
_RESULT_FORMAT = Option(
    name="result_format", type=Choice(RESULT_FORMATS), default="json", help="Format of the result at `result_url`."
)
_JOB_OPTIONS = (_WEBHOOK, _RESULT_URL, _RESULT_FORMAT)


@dataclass(frozen=True, slots=True)
class JobRouteParts:
    """Parts of the job routes, beside those of every route."""

    rest: RestParts
    jobs: Jobs
    idempotency: Idempotency


def build_jobs_router(parts: JobRouteParts) -> APIRouter:
    """Return the routes under /jobs."""
    router = APIRouter(tags=["jobs"])

    async def submit() -> Response:
        """Hand a clip in and come back for its answer. 202 means that the job will end as done or failed."""
        return JobSubmission(parts)

    async def state(job_id: _JobId, request: Request) -> Response:
        """State (queued, running, done, failed, cancelled), progress from 0 to 1, times in seconds since 1970."""
        with _recorded(parts, request) as owner:
            job = await parts.jobs.get(_checked(job_id), owner=owner)
            headers = {"Content-Type": JSON_TYPE, "Cache-Control": "no-store"}
            return Response(JobStatus.of(job).encode(), headers=headers)

    async def result(job_id: _JobId) -> Response:
        """The answer of POST /segment; a failed job's own problem; 409 before the end."""
        return JobResult(parts, job_id)

    async def events(job_id: _JobId) -> Response:
        """Server-sent events `progress`, `frame`, `event`, `done`, `failed`; `Last-Event-ID` resumes."""
        return JobEvents(parts, job_id)

    async def erase(job_id: _JobId, request: Request) -> Response:
        """Cancel the job and erase everything that is kept of it."""
        with _recorded(parts, request) as owner:
            await parts.jobs.erase(_checked(job_id), owner=owner)
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
        dependencies=[upload_parameters(*_JOB_OPTIONS)],
        openapi_extra={"requestBody": upload_request_body(*_JOB_OPTIONS), "security": SECURITY},
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


class JobSubmission(Response):
    """Receives the upload as POST /segment does, and answers 202 when the job is stored."""

    def __init__(self, parts: JobRouteParts) -> None:
        self._parts = parts
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store the job or send its problem."""
        intake = _JobIntake(self._parts.rest)
        async with exchange(self._parts.rest, scope, send) as (sender, record):
            async with intake.accepted(scope, receive, record) as accepted:
                body = await self._submit(accepted, intake)
            location = f"{scope['root_path']}/v1/jobs/{json.loads(body)['job_id']}"
            headers = {"Content-Type": JSON_TYPE, "Location": location, "Content-Length": str(len(body))}
            await sender.start(headers, status=202)
            await sender.write(body)
            await sender.end()

    async def _submit(self, accepted: AcceptedRequest, intake: _JobIntake) -> bytes:
        upload, context, jobs = accepted.upload, accepted.context, self._parts.jobs
        request = JobRequest(
            request_id=context.request_id,
            owner=context.owner,
            options=accepted.options,
            may_use_cache=context.may_use_cache,
            webhook=intake.webhook,
            result_url=intake.result_url,
            result_format=intake.result_format,
            traceparent=context.traceparent,
        )
        if context.idempotency_key is None:
            return _accepted(await jobs.submit(upload, request))
        scope = key_scope(context, route="jobs", options=accepted.options, extra=intake.key_extra)
        async with self._parts.idempotency.use(scope, upload.sha256) as use:
            if use.first_reply is None:
                use.reply = _accepted(await jobs.submit(upload, request))
                return use.reply
            return use.first_reply


class _JobIntake(UploadIntake):
    """Accepts the options of a job as well."""

    webhook: str | None = None
    result_url: str | None = None
    result_format: str = str(_RESULT_FORMAT.default)

    @property
    def key_extra(self) -> str:
        """Return what a repeated submission with the same idempotency key must have in common."""
        sent_to = "" if self.result_url is None else f" {self.result_url} {self.result_format}"
        return (self.webhook or "") + sent_to

    def take_more(self, options: dict[str, str], head: RequestHead) -> ChosenFormat:
        self.webhook = options.pop(_WEBHOOK.name, "").strip() or None
        self.result_url = options.pop(_RESULT_URL.name, "").strip() or None
        format_name = options.pop(_RESULT_FORMAT.name, "").strip()
        if format_name and self.result_url is None:
            raise ServiceError("bad_option", "result_format: give result_url as well.")
        if format_name:
            self.result_format = str(_RESULT_FORMAT.parse(format_name))
        return ChosenFormat("json")


def _accepted(job: Job) -> bytes:
    return JobStatus.of(job, has_secret=True).encode()


class _JobStream(Response, ABC):
    """A streamed answer about one job."""

    def __init__(self, parts: JobRouteParts, job_id: str) -> None:
        self._parts = parts.rest
        self._jobs = parts.jobs
        self._job_id = job_id
        self._query: tuple[tuple[str, str], ...] = ()
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request or send its problem."""
        async with exchange(self._parts, scope, send) as (sender, record):
            record.is_body_read = True  # there is none
            headers = Headers(scope=scope)
            owner = self._parts.identify(scope, record).key_id
            with ended_by_disconnect(receive):
                self._query = parse_query(scope["query_string"])
                await self._stream(_checked(self._job_id), owner, headers, sender, record)

    @abstractmethod
    async def _stream(self, job_id: str, owner: str, headers: Headers, sender: Sender, record: RequestRecord) -> None:
        """Send the requested representation of the job; raises ServiceError."""


class JobResult(_JobStream):
    """GET /jobs/{id}/result."""

    async def _stream(self, job_id: str, owner: str, headers: Headers, sender: Sender, record: RequestRecord) -> None:
        options = merge_options(self._query)
        wanted = take_format(options, accepted=answer_type(headers.getlist("accept")))
        if wanted.name == "overlay":
            detail = "The clip of an ended job is deleted; ask for the overlay at POST /segment."
            raise ServiceError("not_acceptable", detail)
        job = await self._jobs.get(job_id, owner=owner)
        etag = f'"{job.job_id}-{job.attempt}-{wanted.name}-{int(wanted.is_compressed)}"'
        if job.state == "done" and etag in (part.strip() for part in headers.get("if-none-match", "").split(",")):
            await sender.start({"ETag": etag}, status=304)
            await sender.end()
            return
        tagged = _TaggedSender(sender, etag)
        await send_answer(self._jobs.answer(job), wanted, tagged, record, parts=self._parts)


class JobEvents(_JobStream):
    """GET /jobs/{id}/events."""

    async def _stream(self, job_id: str, owner: str, headers: Headers, sender: Sender, record: RequestRecord) -> None:
        last = headers.get("last-event-id", "0")
        if not _EVENT_ID.fullmatch(last):
            raise ServiceError("bad_option", "Last-Event-ID: give the id of an event of this job.")
        await self._jobs.get(job_id, owner=owner)
        await sender.start(
            {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        events = self._jobs.follow(job_id, owner=owner, after=int(last))
        async with aclosing(events), sender.beating(b": waiting\n\n"):
            async for event in events:
                await sender.write(_event_lines(event))
        await sender.end()


class _TaggedSender(Sender):
    """The same sender with an ETag header."""

    def __init__(self, sender: Sender, etag: str) -> None:
        self._sender = sender
        self._etag = etag

    async def start(self, headers: dict[str, str], *, status: int = 200) -> None:
        self.media_type = headers.get("Content-Type", "")
        await self._sender.start({**headers, "ETag": self._etag}, status=status)

    async def write(self, data: bytes) -> None:
        await self._sender.write(data)

    @asynccontextmanager
    async def beating(self, heartbeat: bytes) -> AsyncIterator[None]:
        async with self._sender.beating(heartbeat):
            yield

    async def end(self) -> None:
        await self._sender.end()


@contextmanager
def _recorded(parts: JobRouteParts, request: Request) -> Iterator[str]:
    """Record a short request and yield the id of its caller's key."""
    with parts.rest.recorded(request.scope) as record:
        yield parts.rest.identify(request.scope, record).key_id


def _event_lines(event: JobEvent) -> bytes:
    if event.frame is not None:
        data = encode_frame(event.frame)
    elif event.event is not None:
        data = encode_event(event.event)
    else:
        data = JobStatus.of(event.job).encode()
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.kind.encode(), data)


def _checked(job_id: str) -> str:
    if not _JOB_ID.fullmatch(job_id):
        raise ServiceError("job_not_found", "There is no such job.")
    return job_id
