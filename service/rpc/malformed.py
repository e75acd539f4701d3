"""Answer messages that are no protobuf with INVALID_ARGUMENT, for every method of every service of the port.

gRPC Python answers a failed deserialization with INTERNAL or UNKNOWN and the library's own text.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from service.domain.errors import ServiceError
from service.domain.request import accept_request_id
from service.rpc.errors import status_code, trailers


class _Malformed:
    """A message that could not be parsed."""


_MALFORMED = _Malformed()


class MalformedMessages(aio.ServerInterceptor):
    """Interceptor that turns messages that cannot be parsed into `malformed_body`."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the method's handler with its parsing checked; None where there is no such method."""
        handler = await continuation(handler_call_details)
        return None if handler is None else _checked(handler)


def _checked(handler: Any) -> Any:
    kind = f"{'stream' if handler.request_streaming else 'unary'}_{'stream' if handler.response_streaming else 'unary'}"
    behaviour = getattr(handler, kind)
    wrap = _generator if inspect.isasyncgenfunction(behaviour) else _coroutine
    parse = handler.request_deserializer
    return handler._replace(
        request_deserializer=None if parse is None else _lenient(parse),
        **{kind: wrap(behaviour, is_stream=handler.request_streaming)},
    )


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _MALFORMED

    return parsed


def _coroutine(behaviour: Any, *, is_stream: bool) -> Any:
    async def run(request: Any, rpc: Any) -> Any:
        try:
            return await behaviour(_incoming(request, is_stream=is_stream), rpc)
        except ServiceError as error:
            await _abort(rpc, error)

    return run


def _generator(behaviour: Any, *, is_stream: bool) -> Any:
    async def run(request: Any, rpc: Any) -> Any:
        try:
            async for response in behaviour(_incoming(request, is_stream=is_stream), rpc):
                yield response
        except ServiceError as error:
            await _abort(rpc, error)

    return run


def _incoming(request: Any, *, is_stream: bool) -> Any:
    """Return the request or the iterator of requests; raises `malformed_body` for one that could not be parsed."""
    return _messages(request) if is_stream else _parsed(request)


async def _messages(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _parsed(request)


def _parsed(request: Any) -> Any:
    if request is _MALFORMED:
        raise ServiceError("malformed_body", "A message is not valid protobuf of the method's request type.")
    return request


async def _abort(rpc: Any, error: ServiceError) -> None:
    await rpc.abort(status_code(error), error.detail, trailers(error, request_id=accept_request_id(None)))
