"""The error table over gRPC: a status code, and google.rpc details with the stable code."""

from __future__ import annotations

import math
from typing import Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from service.domain.errors import Kind, ServiceError

ERROR_DOMAIN: Final = "avesformer"
DETAILS_KEY: Final = "grpc-status-details-bin"
# Trailer of gRFC A6: retry delay in milliseconds.
PUSHBACK_KEY: Final = "grpc-retry-pushback-ms"

_STATUS_BY_KIND: Final = {
    Kind.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.METHOD: grpc.StatusCode.UNIMPLEMENTED,
    Kind.UPLOAD_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.READER_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.CONFLICT: grpc.StatusCode.ABORTED,
    Kind.UPLOAD_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNSUPPORTED_MEDIA: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNUSABLE_CLIP: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.HEADERS_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.CANCELLED: grpc.StatusCode.CANCELLED,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
# The one conflict that a retry does not solve.
_STATUS_BY_CODE: Final = {"idempotency_mismatch": grpc.StatusCode.ALREADY_EXISTS}


def status_code(error: ServiceError) -> grpc.StatusCode:
    """Return the gRPC status of a documented failure."""
    return _STATUS_BY_CODE.get(error.code, _STATUS_BY_KIND[error.kind])


def trailers(error: ServiceError, *, request_id: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata of `error`: google.rpc.Status, and the push-back if there is one."""
    info = error_details_pb2.ErrorInfo(
        reason=error.code.upper(),
        domain=ERROR_DOMAIN,
        metadata={"code": error.code, "title": error.spec.title, "request_id": request_id},
    )
    details = [_packed(info)]
    wait_s = error.wait_s
    if wait_s is not None:
        whole_ms = math.ceil(wait_s * 1000)
        delay = duration_pb2.Duration(seconds=whole_ms // 1000, nanos=whole_ms % 1000 * 1_000_000)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=status_code(error).value[0], message=error.detail, details=details)
    entries: tuple[tuple[str, str | bytes], ...] = (
        (DETAILS_KEY, status.SerializeToString()),
        ("x-request-id", request_id),
    )
    return entries if wait_s is None else (*entries, (PUSHBACK_KEY, str(whole_ms)))


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
