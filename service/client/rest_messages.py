"""The incoming part of a REST client: lines of NDJSON to events, problems to errors."""

from __future__ import annotations

from service.client.failures import error_of
from service.codec.answer_json import decode_line
from service.codec.problem_json import Problem, decode_problem
from service.domain.errors import ServiceError
from service.domain.request import AnswerEvent


def line_event(line: str) -> AnswerEvent | None:
    """Return the event of one NDJSON line; None for a heartbeat or a kind that this version does not know.

    Raises:
        ServiceError: the error of an error line; `backend_down` if the line does not come from this service.
    """
    try:
        event = decode_line(line.encode())
    except ValueError:
        raise ServiceError("backend_down", "The server's answer does not follow this service's protocol.") from None
    if isinstance(event, Problem):
        raise _error(event, status=event.status)
    return event


def response_error(status: int, body: bytes, *, retry_after: str | None) -> ServiceError:
    """Return the error of a response without success, including one that a proxy wrote."""
    try:
        problem = decode_problem(body)
    except ValueError:
        problem = Problem(detail=f"The server answered {status} without a reason.")
    wait_s = int(retry_after) if retry_after is not None and retry_after.isdigit() else None
    return _error(problem, status=status, retry_after_s=wait_s)


def _error(problem: Problem, *, status: int, retry_after_s: float | None = None) -> ServiceError:
    wait_s = retry_after_s if problem.retry_after_s is None else problem.retry_after_s
    detail = problem.detail or problem.title or "The service gave no reason."
    return error_of(problem.code, detail, http_status=status, retry_after_s=wait_s)
