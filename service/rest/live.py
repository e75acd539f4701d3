"""The WebSocket /live: SegmentLive for browsers, over the same live streams as gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from service.aio.waits import bounded_wait
from service.codec.answer_json import encode_error_line
from service.codec.live_json import (
    END,
    HEARTBEAT,
    MAX_MESSAGE_BYTES,
    LiveStart,
    decode_live_input,
    decode_live_start,
    encode_live_event,
    is_end,
)
from service.core.live import LiveStreams
from service.core.message_writer import MessageWriter
from service.core.reader_rate import ReaderRate
from service.core.request_log import RequestRecord
from service.domain.deadline import Deadline
from service.domain.errors import Kind, ServiceError
from service.domain.live import LiveEvent, LiveInput, LiveMasks
from service.domain.request import RequestContext
from service.rest.connection.websocket import note_stream
from service.rest.errors import Problem
from service.rest.parts import RestParts

# Longest wait for the options. A stream without them occupies a connection.
OPTIONS_TIMEOUT_S = 10.0
# Close codes of RFC 6455 and IANA's registry: 1008 policy violation, 1011 internal error, 1012 service restart, 1013
# try again later.
_CLOSE_CODES = {
    Kind.OVERLOADED: 1013,
    Kind.UNAVAILABLE: 1012,
    Kind.INTERNAL: 1011,
}
_TOO_LARGE_CODE = 1009


@dataclass(frozen=True, slots=True)
class LiveRouteParts:
    """What the route uses. Pages of `origins` may connect besides our own; `*` allows all."""

    rest: RestParts
    live: LiveStreams
    origins: tuple[str, ...] = ()


def build_live_router(parts: LiveRouteParts) -> APIRouter:
    """Return the route of the WebSocket /live."""
    router = APIRouter()

    async def live(websocket: WebSocket) -> None:
        await LiveSocket(parts, websocket).run()

    router.add_websocket_route("/live", live)
    return router


class LiveSocket:
    """One connection: options, then frames and sound in, masks and events out."""

    def __init__(self, parts: LiveRouteParts, websocket: WebSocket) -> None:
        self._parts = parts
        self._websocket = websocket
        self._request_id: str = websocket.scope["state"]["request_id"]
        self._has_accepted = False
        policy = parts.rest.policy
        self._writer: MessageWriter[str] = MessageWriter(
            self._transmit,
            num_bytes=len,
            rate=ReaderRate(policy.reader_min_bytes_per_s, window_s=policy.stall_s),
            clock=parts.rest.clock,
        )

    async def run(self) -> None:
        """Serve the connection to its end."""
        rest, state = self._parts.rest, self._websocket.scope["state"]
        try:
            with rest.request_log.record(
                request_id=self._request_id,
                transport="live",
                traceparent=state["traceparent"],
                operation="GET /live",
            ) as record:
                await self._serve(record)
        except ServiceError as error:
            await self._fail(error)

    async def _serve(self, record: RequestRecord) -> None:
        self._check_origin()
        authorization = self._websocket.headers.get("authorization")
        if authorization is not None:
            self._authenticate(authorization, record)
        await self._websocket.accept(headers=[(b"x-request-id", self._request_id.encode())])
        self._has_accepted = True
        start = await self._read_start()
        if start.api_key is not None or authorization is None:
            self._authenticate(start.api_key and f"Bearer {start.api_key}", record)
        await self._answer(start, record)
        await self._writer.send(END)
        await self._websocket.close()

    async def _answer(self, start: LiveStart, record: RequestRecord) -> None:
        rest = self._parts.rest
        context = RequestContext(
            request_id=self._request_id,
            transport="live",
            deadline=Deadline(),
            may_use_cache=False,
            started_at_s=rest.clock(),
            caller=record.caller,
            traceparent=record.span.traceparent,
        )

        async def emit(event: LiveEvent) -> None:
            record.num_samples += isinstance(event, LiveMasks)
            await self._writer.send(encode_live_event(event))

        with rest.admission.admit(context):
            note_stream(self._websocket.scope)
            async with self._writer.beating(HEARTBEAT):
                await self._parts.live.run(self._inputs(), options=start.options, emit=emit, context=context)

    def _check_origin(self) -> None:
        """Refuse pages of other sites: browsers do not apply CORS to WebSockets."""
        origin = self._websocket.headers.get("origin")
        allowed = self._parts.origins
        if origin is None or "*" in allowed or origin in allowed:
            return
        if urlsplit(origin).netloc != self._websocket.headers.get("host"):
            raise ServiceError("forbidden", "Pages of this origin may not open live streams; see AVES_CORS_ORIGINS.")

    def _authenticate(self, authorization: str | None, record: RequestRecord) -> None:
        client = self._websocket.client
        caller = self._parts.rest.authenticate(authorization)
        record.caller = replace(caller, address=client.host if client else "")

    async def _read_start(self) -> LiveStart:
        late = partial(ServiceError, "slow_upload", f"No options came within {OPTIONS_TIMEOUT_S:g} s.")
        async with bounded_wait(OPTIONS_TIMEOUT_S, late):
            message = await self._receive()
        if not isinstance(message, str):
            raise ServiceError("malformed_body", 'The first message is {"type": "options", …}.')
        return decode_live_start(message)

    async def _inputs(self) -> AsyncIterator[LiveInput]:
        while True:
            message = await self._receive()
            if isinstance(message, str):
                if is_end(message):
                    return
            else:
                yield decode_live_input(message)

    async def _receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            if message.get("code") == _TOO_LARGE_CODE:
                detail = f"A message is over the limit of {MAX_MESSAGE_BYTES} bytes; send smaller pictures or JPEG."
                raise ServiceError("upload_too_large", detail)
            raise _gone()
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def _transmit(self, message: str) -> None:
        try:
            await self._websocket.send_text(message)
        except (WebSocketDisconnect, RuntimeError):  # starlette raises RuntimeError after the close
            raise _gone() from None

    async def _fail(self, error: ServiceError) -> None:
        """Send the error: as an HTTP response before the switch, as the last message after it."""
        if error.code == "client_gone":
            return
        problem = Problem(error, self._request_id)
        if not self._has_accepted:
            await self._refuse(problem)
            return
        try:
            if error.code != "slow_reader":
                await self._writer.send(encode_error_line(problem.document()).decode().rstrip())
            await self._websocket.close(_CLOSE_CODES.get(error.kind, 1008), error.code)
        except (ServiceError, WebSocketDisconnect, RuntimeError):
            return  # the client has disconnected

    async def _refuse(self, problem: Problem) -> None:
        headers = {**problem.headers(), "X-Request-ID": self._request_id}
        encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        start = {"type": "websocket.http.response.start", "status": problem.status, "headers": encoded}
        await self._websocket.send(start)
        await self._websocket.send({"type": "websocket.http.response.body", "body": problem.encoded()})


def _gone() -> ServiceError:
    return ServiceError("client_gone", "The client disconnected before the end of the stream.")
