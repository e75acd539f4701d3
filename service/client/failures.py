"""Failures of both transports as the ServiceError of the server, or the nearest one."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.rpc import error_details_pb2, status_pb2

from service.domain.errors import CODES, ServiceError

_CODE_BY_HTTP_STATUS = {
    400: "malformed_body",
    401: "unauthenticated",
    403: "forbidden",
    404: "route_not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "slow_upload",
    413: "upload_too_large",
    415: "unsupported_content_type",
    422: "broken",
    429: "too_many_requests",
    431: "headers_too_large",
    502: "backend_down",
    503: "backend_down",
    504: "deadline_exceeded",
    507: "storage_full",
}
# Codes for statuses without our details: from a proxy, from gRPC core, or with a code that this client does not know.
_CODE_BY_GRPC_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: "malformed_body",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "forbidden",
    grpc.StatusCode.NOT_FOUND: "route_not_found",
    grpc.StatusCode.UNIMPLEMENTED: "method_not_allowed",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "too_many_requests",
    grpc.StatusCode.CANCELLED: "client_gone",
    grpc.StatusCode.UNAVAILABLE: "backend_down",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline_exceeded",
}

Metadata = Iterable[tuple[str, str | bytes]]


def error_of(
    code: str | None, detail: str, *, http_status: int = 500, retry_after_s: float | None = None
) -> ServiceError:
    """Return the error of a stable code; of the HTTP status if the code is missing or unknown."""
    known = code if code in CODES else _CODE_BY_HTTP_STATUS.get(http_status, "internal")
    return ServiceError(known or "internal", detail, retry_after_s=retry_after_s)


def grpc_error(status: grpc.StatusCode, message: str | None, trailers: Metadata) -> ServiceError:
    """Return the error in the trailers of a failed RPC; of its status if they are missing."""
    fallback = _CODE_BY_GRPC_STATUS.get(status, "internal")
    detail = message or "The service gave no reason."
    packed = next((value for key, value in trailers if key == "grpc-status-details-bin"), None)
    if not isinstance(packed, bytes):
        return ServiceError(fallback, detail)
    info, retry_after_s = _details(packed)
    code = info.metadata.get("code", "")
    return ServiceError(code if code in CODES else fallback, detail, retry_after_s=retry_after_s)


def unreachable(target: str) -> ServiceError:
    """Return the error of a failed or broken connection."""
    return ServiceError("backend_down", f"No service answers at {target}; is it running, and is the address right?")


def _details(packed: bytes) -> tuple[error_details_pb2.ErrorInfo, float | None]:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status_pb2.Status.FromString(packed).details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return info, retry_after_s
