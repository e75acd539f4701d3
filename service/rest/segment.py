"""Handle POST /segment in one task: admission, upload, answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.core.request_log import RequestRecord
from service.domain.caller import Caller
from service.domain.deadline import Deadline
from service.domain.options import RLE, SegmentOptions, parse_options
from service.domain.request import RequestContext
from service.formats.choose import FORMAT
from service.media.upload import Upload
from service.rest.exchange import exchange
from service.rest.openapi.described_route import DescribedRoute
from service.rest.openapi.requests import SECURITY, upload_parameters, upload_request_body
from service.rest.openapi.responses import SEGMENT_CODES, answer_response, problem_responses
from service.rest.parts import RestParts
from service.rest.requests.intake import ended_by_disconnect, received_upload
from service.rest.requests.request_head import RequestHead, check_length, merge_options, parse_head
from service.rest.responses.formats import ChosenFormat, send_answer, send_overlay, take_format


def build_segment_router(parts: RestParts) -> APIRouter:
    """Return the route of POST /segment."""
    router = APIRouter(tags=["segmentation"])

    async def segment() -> Response:
        """The masks of what sounds, frame by frame.

        Send an MP4 or MOV file as form field `video` or as the raw body; options as form fields or in the query.
        """
        return SegmentAnswer(parts)

    router.add_api_route(
        "/segment",
        segment,
        methods=["POST"],
        summary="Segment a clip",
        response_class=Response,
        responses=answer_response() | problem_responses(*SEGMENT_CODES),
        dependencies=[upload_parameters(FORMAT, RLE)],
        openapi_extra={"requestBody": upload_request_body(FORMAT, RLE), "security": SECURITY},
        route_class_override=DescribedRoute,
    )
    return router


@dataclass(frozen=True, slots=True)
class AcceptedRequest:
    """A request that was admitted and whose body has been received."""

    upload: Upload
    options: SegmentOptions
    context: RequestContext
    format: ChosenFormat


class UploadIntake:
    """Admits requests with a clip and receives their bodies."""

    def __init__(self, parts: RestParts) -> None:
        self._parts = parts

    @asynccontextmanager
    async def accepted(self, scope: Scope, receive: Receive, record: RequestRecord) -> AsyncIterator[AcceptedRequest]:
        """Yield an admitted request with its whole upload. Permit and upload are released when the block ends.

        Raises:
            ServiceError: the request is not admitted, or its head, body or options are faulty.
        """
        parts = self._parts
        caller = parts.identify(scope, record)
        head = parse_head(scope)
        check_length(head.length, max_bytes=parts.policy.max_upload_bytes, is_form=head.boundary is not None)
        context = self._context(scope, head, caller, record)
        with parts.admission.admit(context):
            await parts.answering.check(self._parse(head, head.options)[0])
            async with received_upload(parts, head, receive, context=context, record=record) as (upload, fields):
                options, chosen = self._parse(head, fields.items())
                yield AcceptedRequest(upload, options, context, chosen)

    def _context(self, scope: Scope, head: RequestHead, caller: Caller, record: RequestRecord) -> RequestContext:
        timeout_s = head.timeout_s
        asked = dict(head.options).get(FORMAT.name, "").strip() or head.answer_type
        if timeout_s is None and not ChosenFormat(asked).is_streamed:
            timeout_s = self._parts.policy.request_timeout_s
        return RequestContext(
            request_id=scope["state"]["request_id"],
            transport="rest",
            deadline=Deadline.after(timeout_s, clock=self._parts.clock),
            may_use_cache=head.may_use_cache,
            started_at_s=self._parts.clock(),
            caller=caller,
            idempotency_key=head.idempotency_key,
            traceparent=record.span.traceparent,
        )

    def _parse(self, head: RequestHead, *sources: Iterable[tuple[str, str]]) -> tuple[SegmentOptions, ChosenFormat]:
        merged = merge_options(*sources)
        chosen = self.take_more(merged, head)
        return parse_options(merged), chosen

    def take_more(self, options: dict[str, str], head: RequestHead) -> ChosenFormat:
        """Remove the options of this route that do not concern masks from `options`, and return the format."""
        return take_format(options, accepted=head.answer_type)


class SegmentAnswer(Response):
    """The answer to an upload. It does all work of the request when it is called."""

    def __init__(self, parts: RestParts) -> None:
        self._parts = parts
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request or send its problem."""
        parts = self._parts
        async with (
            exchange(parts, scope, send) as (sender, record),
            UploadIntake(parts).accepted(scope, receive, record) as accepted,
        ):
            is_overlay = accepted.format.name == "overlay"
            if is_overlay:
                accepted.upload.keep()
            with ended_by_disconnect(receive):
                has_key = accepted.context.idempotency_key is not None
                answering = parts.idempotent_answering if has_key else parts.answering
                events = answering.answer(accepted.upload, accepted.options, accepted.context)
                if is_overlay:
                    deadline = accepted.context.deadline
                    await send_overlay(events, accepted.upload, sender, record, parts=parts, deadline=deadline)
                else:
                    await send_answer(events, accepted.format, sender, record, parts=parts)
