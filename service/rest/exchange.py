"""The frame of every response: the record of the request, and its failure as a problem."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Scope, Send

from service.core.reader_rate import ReaderRate
from service.core.request_log import RequestRecord
from service.domain.errors import ServiceError
from service.rest.errors import Problem, send_problem
from service.rest.parts import RestParts
from service.rest.responses.answer_lines import end_with_error
from service.rest.responses.sender import Sender


@asynccontextmanager
async def exchange(parts: RestParts, scope: Scope, send: Send) -> AsyncIterator[tuple[Sender, RequestRecord]]:
    """Wrap the whole work of a request; yields the sender of its answer and its record.

    A ServiceError of the body is sent as a problem document. If the answer has started, the error ends it with an error
    line or cuts it. Cancelling the task ends everything.
    """
    rate = ReaderRate(parts.policy.reader_min_bytes_per_s, window_s=parts.policy.stall_s)
    sender = Sender(scope, send, rate=rate, clock=parts.clock)
    try:
        with parts.recorded(scope) as record:
            yield sender, record
    except ServiceError as error:
        problem = Problem(error, scope["state"]["request_id"])
        if sender.has_started or error.code == "client_gone":
            await end_with_error(problem, sender)
        else:
            await send_problem(problem, send=send, must_close=not record.is_body_read)
