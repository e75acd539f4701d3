"""From a request's body to a complete upload and its fields, for every route that receives a clip."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.types import Receive

from service.aio.interrupt import Interrupt
from service.codec.option_json import decode_object, option_texts
from service.core.request_log import RequestRecord
from service.core.upload_rate import UploadRate
from service.domain.errors import ServiceError
from service.domain.request import RequestContext
from service.media.upload import Upload
from service.rest.parts import RestParts
from service.rest.requests.body import BodyReader, read_form, read_raw, read_text
from service.rest.requests.request_head import FORM_OVERHEAD_BYTES, MAX_JSON_BYTES, RequestHead, merge_options


@asynccontextmanager
async def received_upload(
    parts: RestParts, head: RequestHead, receive: Receive, *, context: RequestContext, record: RequestRecord
) -> AsyncIterator[tuple[Upload, dict[str, str]]]:
    """Yield the complete upload and the fields of query and form. The upload is deleted when the block ends.

    Raises:
        ServiceError: faults of the body, `bad_option` for a field given twice, `client_gone`, `slow_upload`,
            `deadline_exceeded`, `storage_full`.
    """
    policy, clock = parts.policy, parts.clock
    upload = await parts.spool.open_upload(max_bytes=policy.max_upload_bytes, caller=context.caller)
    try:
        body = BodyReader(
            receive,
            rate=UploadRate(policy.upload_min_bytes_per_s, clock=clock),
            deadline=context.deadline,
            clock=clock,
            max_bytes=policy.max_upload_bytes + FORM_OVERHEAD_BYTES,
        )
        try:
            with record.span.child("upload"):
                if head.is_json:
                    fields = await _fetch(body, upload, context, parts=parts)
                elif head.boundary is None:
                    fields = await read_raw(body, upload)
                else:
                    fields = await read_form(body, upload, boundary=head.boundary)
        finally:
            record.upload_bytes = upload.size
            record.is_body_read = body.is_complete
        upload.finish()
        yield upload, merge_options(head.options, fields)
    finally:
        upload.close()


async def _fetch(
    body: BodyReader, upload: Upload, context: RequestContext, *, parts: RestParts
) -> tuple[tuple[str, str], ...]:
    """Read the JSON object, fetch the clip that its `url` names, and return its other members as text fields."""
    fields = option_texts(decode_object(await read_text(body, max_bytes=MAX_JSON_BYTES)))
    url = fields.pop("url", "").strip()
    if not url:
        raise ServiceError("missing_file", "The JSON object has no `url` of a clip.")
    await parts.fetch(url, upload, deadline=context.deadline)
    return tuple(fields.items())


@contextmanager
def ended_by_disconnect(receive: Receive) -> Iterator[None]:
    """End the body with `client_gone` when the client's connection is lost."""
    with Interrupt() as stop:
        watching = asyncio.ensure_future(_watch(receive, stop))
        try:
            yield
        finally:
            watching.cancel()


async def _watch(receive: Receive, stop: Interrupt) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stop.fire(ServiceError("client_gone", "The client disconnected."))
