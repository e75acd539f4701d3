"""POST /segment: head, permit, body, answer; one task from the first byte to the last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from service.core.request_log import RequestRecord
from service.domain.deadline import Deadline
from service.domain.options import SegmentOptions, parse_options
from service.domain.request import RequestContext
from service.media.upload import Upload
from service.rest.answers import answer_json, answer_ndjson
from service.rest.intake import ended_by_disconnect, received_upload
from service.rest.long_answer import LongAnswer
from service.rest.request_head import RequestHead, check_length, merge_options, parse_head
from service.rest.sender import Sender


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was let in and has sent all of its body."""

    upload: Upload
    options: SegmentOptions
    context: RequestContext
    head: RequestHead


class SegmentAnswer(LongAnswer):
    """The answer to an upload, as a document or as lines."""

    async def _serve(self, scope: Scope, receive: Receive, sender: Sender, record: RequestRecord) -> None:
        async with self._admitted(scope, receive, record) as asked:
            with ended_by_disconnect(receive):
                await self._answer(asked, sender, record)

    @asynccontextmanager
    async def _admitted(self, scope: Scope, receive: Receive, record: RequestRecord) -> AsyncIterator[Asked]:
        """Around the work: a permit and the whole upload, both given back when the block ends.

        Raises:
            ServiceError: why the request is not let in, what is wrong with its head, body or options.
        """
        parts = self._parts
        owner = parts.authenticate(Headers(scope=scope).get("authorization"))
        head = parse_head(scope)
        check_length(head.length, max_bytes=parts.policy.max_upload_bytes, is_form=head.boundary is not None)
        context = self._context(scope, head, owner, record)
        with parts.admission.admit(context):
            await parts.answering.check(self._parse_options(head.options))
            async with received_upload(parts, head, receive, context=context, record=record) as (upload, fields):
                yield Asked(upload, self._parse_options(fields.items()), context, head)

    async def _answer(self, asked: Asked, sender: Sender, record: RequestRecord) -> None:
        events = self._parts.answering.answer(asked.upload, asked.options, asked.context)
        if asked.head.answer_type == "ndjson":
            await answer_ndjson(events, sender, record)
            return
        policy = self._parts.policy
        await answer_json(events, sender, record, max_bytes=policy.max_answer_bytes, directory=policy.spool_directory)

    def _context(self, scope: Scope, head: RequestHead, owner: str, record: RequestRecord) -> RequestContext:
        timeout_s = head.timeout_s
        if timeout_s is None and head.answer_type == "json":
            timeout_s = self._parts.policy.request_timeout_s
        return RequestContext(
            request_id=scope["state"]["request_id"],
            transport="rest",
            deadline=Deadline.after(timeout_s, clock=self._parts.clock),
            may_use_cache=head.may_use_cache,
            started_at_s=self._parts.clock(),
            owner=owner,
            idempotency_key=head.idempotency_key,
            traceparent=record.span.traceparent,
        )

    def _parse_options(self, *sources: Iterable[tuple[str, str]]) -> SegmentOptions:
        """The options of query and form together."""
        return parse_options(merge_options(*sources))
