"""All errors that a caller can meet, as one table of stable codes.

`rest/errors.py` and `rpc/errors.py` map a *kind* to a status of their transport, and a parity test walks `CODES` over
both. A `ServiceError` carries a code and a detail that is safe to show: it says what was wrong with this input, which
limit was exceeded and what to do. It never contains a path, a traceback or a library's message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kind of failure. Transports map kinds to statuses; clients read codes."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD = "method"
    UPLOAD_TIMEOUT = "upload_timeout"
    READER_TIMEOUT = "reader_timeout"
    CONFLICT = "conflict"
    UPLOAD_TOO_LARGE = "upload_too_large"
    UNSUPPORTED_MEDIA = "unsupported_media"
    UNUSABLE_CLIP = "unusable_clip"
    OVERLOADED = "overloaded"
    HEADERS_TOO_LARGE = "headers_too_large"
    CANCELLED = "cancelled"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    STORAGE_FULL = "storage_full"


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """Fixed facts of a code: its kind, its title in a problem body, and whether a retry can help."""

    kind: Kind
    title: str
    is_retryable: bool = False


CODES: dict[str, ErrorSpec] = {
    "bad_option": ErrorSpec(Kind.INVALID_REQUEST, "An option is unknown or out of range"),
    "empty_file": ErrorSpec(Kind.INVALID_REQUEST, "The uploaded file is empty"),
    "missing_file": ErrorSpec(Kind.INVALID_REQUEST, "The request carries no video"),
    "url_refused": ErrorSpec(Kind.INVALID_REQUEST, "The service does not connect to this address"),
    "malformed_body": ErrorSpec(Kind.INVALID_REQUEST, "The request body is malformed"),
    "unauthenticated": ErrorSpec(Kind.UNAUTHENTICATED, "A valid API key is needed"),
    # Only clients see this one: a proxy in front of the service refused the call. The service answers unauthenticated.
    "forbidden": ErrorSpec(Kind.FORBIDDEN, "The caller may not do that"),
    "route_not_found": ErrorSpec(Kind.NOT_FOUND, "There is no such route"),
    "job_not_found": ErrorSpec(Kind.NOT_FOUND, "There is no such job"),
    "job_expired": ErrorSpec(Kind.NOT_FOUND, "The job's result is no longer kept"),
    "method_not_allowed": ErrorSpec(Kind.METHOD, "The route does not take this method"),
    "not_acceptable": ErrorSpec(Kind.METHOD, "No offered media type is acceptable"),
    "slow_upload": ErrorSpec(Kind.UPLOAD_TIMEOUT, "The upload was too slow", is_retryable=True),
    "slow_reader": ErrorSpec(Kind.READER_TIMEOUT, "The answer was read too slowly"),
    "idempotency_mismatch": ErrorSpec(Kind.CONFLICT, "The idempotency key was used with another request"),
    "idempotency_in_progress": ErrorSpec(
        Kind.CONFLICT, "The request with this idempotency key is still running", is_retryable=True
    ),
    "job_not_ready": ErrorSpec(Kind.CONFLICT, "The job has no result yet", is_retryable=True),
    "upload_too_large": ErrorSpec(Kind.UPLOAD_TOO_LARGE, "The upload is too large"),
    "not_mp4": ErrorSpec(Kind.UNSUPPORTED_MEDIA, "The upload is not an MP4 or MOV file"),
    "unsupported_codec": ErrorSpec(Kind.UNSUPPORTED_MEDIA, "The codec is not supported"),
    "unsupported_content_type": ErrorSpec(Kind.UNSUPPORTED_MEDIA, "The content type is not supported"),
    "unsupported_encoding": ErrorSpec(Kind.UNSUPPORTED_MEDIA, "The content encoding is not supported"),
    "url_unreachable": ErrorSpec(Kind.UNUSABLE_CLIP, "The file at the address could not be fetched"),
    "no_moov": ErrorSpec(Kind.UNUSABLE_CLIP, "The file has no index (moov)"),
    "no_video": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip has no picture track"),
    "no_audio": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip has no sound track"),
    "no_frames": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip holds no decodable frame"),
    "encrypted": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip is encrypted"),
    "truncated": ErrorSpec(Kind.UNUSABLE_CLIP, "The file is cut off"),
    "broken": ErrorSpec(Kind.UNUSABLE_CLIP, "The file is damaged"),
    "external_data": ErrorSpec(Kind.UNUSABLE_CLIP, "The file keeps its media elsewhere"),
    "too_long": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip is too long"),
    "too_many_frames": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip has too many frames or samples"),
    "picture_too_large": ErrorSpec(Kind.UNUSABLE_CLIP, "The picture is too large"),
    "too_many_streams": ErrorSpec(Kind.UNUSABLE_CLIP, "The file has too many tracks"),
    "too_costly": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip costs too much to decode"),
    "answer_too_large": ErrorSpec(Kind.UNUSABLE_CLIP, "The answer would be too large for one JSON document"),
    "poison_clip": ErrorSpec(Kind.UNUSABLE_CLIP, "The clip crashed its worker twice and is not retried"),
    "queue_full": ErrorSpec(Kind.OVERLOADED, "The service is at its limit", is_retryable=True),
    "too_many_requests": ErrorSpec(Kind.OVERLOADED, "Too many requests at once", is_retryable=True),
    "cannot_meet_deadline": ErrorSpec(
        Kind.OVERLOADED, "The deadline cannot be met under the present load", is_retryable=True
    ),
    "headers_too_large": ErrorSpec(Kind.HEADERS_TOO_LARGE, "The request headers are too large"),
    "client_gone": ErrorSpec(Kind.CANCELLED, "The client closed the connection"),
    "internal": ErrorSpec(Kind.INTERNAL, "Something failed inside the service"),
    "warming_up": ErrorSpec(Kind.UNAVAILABLE, "The service is warming up", is_retryable=True),
    "draining": ErrorSpec(Kind.UNAVAILABLE, "The service is shutting down", is_retryable=True),
    "backend_down": ErrorSpec(Kind.UNAVAILABLE, "A part of the service is unreachable", is_retryable=True),
    "decoder_gone": ErrorSpec(Kind.UNAVAILABLE, "The decoder was stopped", is_retryable=True),
    "deadline_exceeded": ErrorSpec(Kind.DEADLINE_EXCEEDED, "The deadline passed", is_retryable=True),
    "storage_full": ErrorSpec(Kind.STORAGE_FULL, "The service's storage is full", is_retryable=True),
}


# Retry delay of errors that bring no measured one: HTTP statuses 429 and 503 always have Retry-After.
_DEFAULT_WAIT_S = {Kind.OVERLOADED: 2.0, Kind.UNAVAILABLE: 5.0}


class ServiceError(Exception):
    """A documented failure: a code of `CODES` and a detail that is safe to show to the caller."""

    def __init__(self, code: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.spec = CODES[code]
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> Kind:
        """Return the kind, which transports map to a status."""
        return self.spec.kind

    @property
    def wait_s(self) -> float | None:
        """Return the retry delay in seconds: measured, else the default of the kind; None if a retry cannot help.

        Transports report this value; `retry_after_s` is only the measured one.
        """
        return _DEFAULT_WAIT_S.get(self.kind) if self.retry_after_s is None else self.retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by arguments, so that the error survives a process pool of the standard library."""
        return (_rebuild, (self.code, self.detail, self.retry_after_s))


def _rebuild(code: str, detail: str, retry_after_s: float | None) -> ServiceError:
    return ServiceError(code, detail, retry_after_s=retry_after_s)
