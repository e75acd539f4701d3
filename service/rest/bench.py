"""POST /bench/batch: the service's own overhead on an emulated accelerator. Only with AVES_BENCH_ROUTES."""

from __future__ import annotations

import json
from contextlib import aclosing

from fastapi import APIRouter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.batching.emulated import BenchAccelerator
from service.core.request_log import RequestRecord
from service.core.upload_rate import UploadRate
from service.domain.deadline import Deadline
from service.domain.errors import ServiceError
from service.domain.request import RequestContext
from service.rest.errors import Problem, send_problem
from service.rest.openapi.described_route import DescribedRoute
from service.rest.parts import RestParts
from service.rest.requests.body import BodyReader
from service.rest.requests.intake import ended_by_disconnect

_MAX_BODY_BYTES = 64 * 1024


class BenchAnswer(Response):
    """One item: permit, body, batch, small JSON. Cancelled when the client disconnects, like every request."""

    def __init__(self, parts: RestParts, accelerator: BenchAccelerator) -> None:
        self._parts = parts
        self._accelerator = accelerator
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the item or send its problem."""
        request_id: str = scope["state"]["request_id"]
        try:
            with self._parts.recorded(scope) as record:
                answer = await self._serve(scope, receive, request_id, record)
                record.num_samples = 1
        except ServiceError as error:
            if error.code != "client_gone":
                await send_problem(Problem(error, request_id), send=send, must_close=True)
            return
        await Response(json.dumps(answer), media_type="application/json")(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, request_id: str, record: RequestRecord) -> dict[str, object]:
        parts = self._parts
        deadline = Deadline.after(parts.policy.request_timeout_s, clock=parts.clock)
        context = RequestContext(request_id, "rest", deadline, caller=parts.identify(scope, record))
        with parts.admission.admit(context), self._accelerator.expect(request_id):
            rate = UploadRate(parts.policy.upload_min_bytes_per_s, clock=parts.clock)
            reader = BodyReader(receive, rate=rate, deadline=deadline, clock=parts.clock, max_bytes=_MAX_BODY_BYTES)
            async with aclosing(reader.read()) as blocks:
                body = b"".join([block async for block in blocks])
            with ended_by_disconnect(receive):
                async with parts.admission.places.place(context.caller):
                    return await self._accelerator.answer(body, context)


def build_bench_router(parts: RestParts, accelerator: BenchAccelerator) -> APIRouter:
    """Return the route. It is not part of the public API description."""
    router = APIRouter()

    async def batch() -> Response:
        return BenchAnswer(parts, accelerator)

    router.add_api_route(
        "/bench/batch", batch, methods=["POST"], include_in_schema=False, route_class_override=DescribedRoute
    )
    return router
