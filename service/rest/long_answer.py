"""Responses that do their request's work while they are sent."""

from __future__ import annotations

from abc import ABC, abstractmethod

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.core.request_log import RequestRecord
from service.domain.errors import ServiceError
from service.rest.answers import end_with_error
from service.rest.errors import Problem, send_problem
from service.rest.parts import RestParts
from service.rest.sender import Sender


class LongAnswer(Response, ABC):
    """A response that does the whole request when it is called, so that cancelling it ends everything.

    Its errors before the start are problem documents, those after end it with an error line or cut it.
    """

    def __init__(self, parts: RestParts) -> None:
        self._parts = parts
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request or send its problem."""
        request_id: str = scope["state"]["request_id"]
        sender = Sender(scope, send, stall_s=self._parts.policy.stall_s)
        try:
            with self._parts.recorded(scope) as record:
                await self._serve(scope, receive, sender, record)
        except ServiceError as error:
            problem = Problem(error, request_id)
            if sender.has_started or error.code == "client_gone":
                await end_with_error(problem, sender)
            else:
                await send_problem(problem, send=send, must_close=not record.is_body_read)

    @abstractmethod
    async def _serve(self, scope: Scope, receive: Receive, sender: Sender, record: RequestRecord) -> None:
        """Send the answer; raises ServiceError."""
