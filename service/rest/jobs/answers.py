"""GET /jobs/{id}/result and GET /jobs/{id}/events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.codec.answer_json import encode_event, encode_frame
from service.codec.job_json import JobStatus
from service.core.request_log import RequestRecord
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.request import RequestContext
from service.jobs.api import JobEvent
from service.rest.exchange import exchange
from service.rest.jobs.parts import EVENT_ID, JobRouteParts, checked_id
from service.rest.requests.intake import ended_by_disconnect
from service.rest.requests.request_head import answer_type, merge_options, parse_query
from service.rest.responses.formats import send_answer, send_overlay, take_format
from service.rest.responses.sender import Sender


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
                await self._stream(checked_id(self._job_id), owner, headers, sender, record)

    @abstractmethod
    async def _stream(self, job_id: str, owner: str, headers: Headers, sender: Sender, record: RequestRecord) -> None:
        """Send the requested representation of the job; raises ServiceError."""


class JobResult(_JobStream):
    """GET /jobs/{id}/result."""

    async def _stream(self, job_id: str, owner: str, headers: Headers, sender: Sender, record: RequestRecord) -> None:
        options = merge_options(self._query)
        wanted = take_format(options, accepted=answer_type(headers.getlist("accept")))
        job = await self._jobs.get(job_id, owner=owner)
        etag = f'"{job.job_id}-{job.attempt}-{wanted.name}-{int(wanted.is_compressed)}"'
        if job.state == "done" and etag in (part.strip() for part in headers.get("if-none-match", "").split(",")):
            await sender.start({"ETag": etag}, status=304)
            await sender.end()
            return
        tagged = _TaggedSender(sender, etag)
        if wanted.name == "overlay":
            await self._send_overlay(job, tagged, record)
        else:
            await send_answer(self._jobs.answer(job), wanted, tagged, record, parts=self._parts)

    async def _send_overlay(self, job: Job, sender: Sender, record: RequestRecord) -> None:
        """Draw on the clip that the job kept. Admitted and bounded as an overlay of POST /segment is."""
        parts = self._parts
        deadline = Deadline.after(parts.policy.request_timeout_s, clock=parts.clock)
        context = RequestContext(job.request_id, "rest", deadline, caller=record.caller)
        with parts.admission.admit(context):
            async with self._jobs.clip(job, parts.spool, max_bytes=parts.policy.max_upload_bytes) as clip:
                await send_overlay(self._jobs.answer(job), clip, sender, record, parts=parts, deadline=deadline)


class JobEventStream(_JobStream):
    """GET /jobs/{id}/events."""

    async def _stream(self, job_id: str, owner: str, headers: Headers, sender: Sender, record: RequestRecord) -> None:
        last = headers.get("last-event-id", "0")
        if not EVENT_ID.fullmatch(last):
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


def _event_lines(event: JobEvent) -> bytes:
    if event.frame is not None:
        data = encode_frame(event.frame)
    elif event.event is not None:
        data = encode_event(event.event)
    else:
        data = JobStatus.of(event.job).encode()
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.kind.encode(), data)
