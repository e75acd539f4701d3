"""Every code of the error table as gRPC tells it, and as the client reads it back."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from service.client.failures import grpc_error
from service.domain.errors import CODES, Kind, ServiceError
from service.rpc.errors import status_code, trailers

STATUS = {
    Kind.INVALID_REQUEST: "INVALID_ARGUMENT",
    Kind.UNAUTHENTICATED: "UNAUTHENTICATED",
    Kind.FORBIDDEN: "PERMISSION_DENIED",
    Kind.NOT_FOUND: "NOT_FOUND",
    Kind.METHOD: "UNIMPLEMENTED",
    Kind.UPLOAD_TIMEOUT: "DEADLINE_EXCEEDED",
    Kind.READER_TIMEOUT: "DEADLINE_EXCEEDED",
    Kind.CONFLICT: "ABORTED",
    Kind.UPLOAD_TOO_LARGE: "INVALID_ARGUMENT",
    Kind.UNSUPPORTED_MEDIA: "INVALID_ARGUMENT",
    Kind.UNUSABLE_CLIP: "INVALID_ARGUMENT",
    Kind.OVERLOADED: "RESOURCE_EXHAUSTED",
    Kind.HEADERS_TOO_LARGE: "RESOURCE_EXHAUSTED",
    Kind.CANCELLED: "CANCELLED",
    Kind.INTERNAL: "INTERNAL",
    Kind.UNAVAILABLE: "UNAVAILABLE",
    Kind.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    Kind.STORAGE_FULL: "RESOURCE_EXHAUSTED",
}


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_status_and_details(code: str) -> None:
    error = ServiceError(code, "What was wrong.", retry_after_s=2.5 if CODES[code].is_retryable else None)
    expected = "ALREADY_EXISTS" if code == "idempotency_mismatch" else STATUS[error.kind]
    assert status_code(error).name == expected
    told = dict(trailers(error, request_id="abc"))
    status = status_pb2.Status.FromString(told["grpc-status-details-bin"])
    assert status.code == status_code(error).value[0]
    assert status.message == "What was wrong."
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (code.upper(), "avesformer")
    assert info.metadata["code"] == code
    assert info.metadata["request_id"] == "abc"
    assert told.get("grpc-retry-pushback-ms") == ("2500" if CODES[code].is_retryable else None)


@pytest.mark.parametrize("code", CODES)
def test_the_client_reads_back_what_was_told(code: str) -> None:
    error = ServiceError(code, "What was wrong.", retry_after_s=0.25)
    read = grpc_error(status_code(error), error.detail, trailers(error, request_id="abc"))
    assert (read.code, read.detail, read.retry_after_s) == (code, "What was wrong.", 0.25)


def test_overload_always_says_when_to_come_back() -> None:
    for code in ("queue_full", "draining", "warming_up"):
        told = dict(trailers(ServiceError(code, "x"), request_id="abc"))
        assert int(told["grpc-retry-pushback-ms"]) > 0
    assert "grpc-retry-pushback-ms" not in dict(trailers(ServiceError("broken", "x"), request_id="abc"))


def test_a_status_without_details_is_read_by_its_status() -> None:
    assert grpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "too big", ()).code == "too_many_requests"
    assert grpc_error(grpc.StatusCode.DATA_LOSS, None, ()).code == "internal"


def test_a_code_from_a_newer_server_is_read_by_its_status() -> None:
    info = error_details_pb2.ErrorInfo(reason="NEW", domain="avesformer", metadata={"code": "new_code"})
    status = status_pb2.Status(code=3, message="x")
    status.details.add().Pack(info)
    read = grpc_error(grpc.StatusCode.INVALID_ARGUMENT, "x", [("grpc-status-details-bin", status.SerializeToString())])
    assert read.code == "malformed_body"
