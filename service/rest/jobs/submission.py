"""POST /jobs: receive an upload as POST /segment does, and queue a job for it."""

from __future__ import annotations

import json

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.answers.idempotency import key_scope
from service.codec.job_json import JobStatus
from service.domain.errors import ServiceError
from service.domain.job import Job
from service.domain.option_table import Option
from service.domain.option_types import Choice, Flag, Url
from service.jobs.api import JobRequest
from service.jobs.results import RESULT_FORMATS
from service.rest.exchange import exchange
from service.rest.jobs.parts import JobRouteParts
from service.rest.requests.request_head import JSON_TYPE, RequestHead
from service.rest.responses.formats import ChosenFormat
from service.rest.segment import AcceptedRequest, UploadIntake

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
_KEEP_CLIP = Option(
    name="keep_clip",
    type=Flag(),
    default=False,
    help="Keep the clip as long as the result, so that the result can be had as an overlay.",
)
_NO_RESULT_URL = (
    "result_format: give result_url as well. Without it, ask for GET /jobs/{id}/result?format=… when the job is done; "
    "for format=overlay submit the job with keep_clip=true."
)
# Options of POST /jobs, beside those of masks.
JOB_OPTIONS = (_WEBHOOK, _RESULT_URL, _RESULT_FORMAT, _KEEP_CLIP)


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
            keeps_clip=intake.keeps_clip,
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
    keeps_clip: bool = False

    @property
    def key_extra(self) -> str:
        """Return what a repeated submission with the same idempotency key must have in common."""
        sent_to = "" if self.result_url is None else f" {self.result_url} {self.result_format}"
        return (self.webhook or "") + sent_to + (" keep_clip" if self.keeps_clip else "")

    def take_more(self, options: dict[str, str], head: RequestHead) -> ChosenFormat:
        self.webhook = options.pop(_WEBHOOK.name, "").strip() or None
        self.result_url = options.pop(_RESULT_URL.name, "").strip() or None
        format_name = options.pop(_RESULT_FORMAT.name, "").strip()
        if format_name and self.result_url is None:
            raise ServiceError("bad_option", _NO_RESULT_URL)
        if format_name:
            self.result_format = str(_RESULT_FORMAT.parse(format_name))
        keep_clip = options.pop(_KEEP_CLIP.name, "").strip()
        self.keeps_clip = bool(keep_clip) and bool(_KEEP_CLIP.parse(keep_clip))
        return ChosenFormat("json")


def _accepted(job: Job) -> bytes:
    return JobStatus.of(job, has_secret=True).encode()
