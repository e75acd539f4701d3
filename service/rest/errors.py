"""The error table over HTTP: kinds to statuses, errors to RFC 9457 problem bodies."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Send

from service.codec import problem_json
from service.domain.errors import CODES, Kind, ServiceError

PROBLEM_MEDIA_TYPE = "application/problem+json"

_STATUS_OF_KIND: dict[Kind, int] = {
    Kind.INVALID_REQUEST: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD: 405,
    Kind.UPLOAD_TIMEOUT: 408,
    Kind.READER_TIMEOUT: 408,
    Kind.CONFLICT: 409,
    Kind.UPLOAD_TOO_LARGE: 413,
    Kind.UNSUPPORTED_MEDIA: 415,
    Kind.UNUSABLE_CLIP: 422,
    Kind.OVERLOADED: 429,
    Kind.HEADERS_TOO_LARGE: 431,
    Kind.CANCELLED: 499,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
    Kind.DEADLINE_EXCEEDED: 504,
    Kind.STORAGE_FULL: 507,
}
_STATUS_OF_CODE = {"not_acceptable": 406}


def status_of(code: str) -> int:
    """Return the HTTP status of a stable code."""
    return _STATUS_OF_CODE.get(code) or _STATUS_OF_KIND[CODES[code].kind]


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as an HTTP response."""

    error: ServiceError
    request_id: str

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return status_of(self.error.code)

    def document(self) -> problem_json.Problem:
        """Return the problem document."""
        return problem_json.Problem.of(self.error, status=self.status, request_id=self.request_id)

    def encoded(self) -> bytes:
        """Return the bytes of the body."""
        return self.document().encode()

    def headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        headers = {"Content-Type": PROBLEM_MEDIA_TYPE, "Cache-Control": "no-store"}
        retry_after_s = self.document().retry_after_s
        if retry_after_s is not None:
            headers["Retry-After"] = str(retry_after_s)
        if self.error.kind is Kind.UNAUTHENTICATED:
            headers["WWW-Authenticate"] = 'Bearer realm="avesformer"'
        return headers


async def send_problem(
    problem: Problem, *, send: Send, extra_headers: dict[str, str] | None = None, must_close: bool = False
) -> None:
    """Send a problem. `must_close` closes the connection if the request's body was not read to its end."""
    body = problem.encoded()
    headers = {**problem.headers(), **(extra_headers or {}), "Content-Length": str(len(body))}
    if must_close:
        headers["Connection"] = "close"
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body, "more_body": False})
