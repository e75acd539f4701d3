"""Responses of the routes for /openapi.json: problems by status, answers in every format, plain bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from service.codec.answer_json import LINES, Answer
from service.codec.job_json import JobStatus
from service.codec.problem_json import Problem
from service.domain.errors import CODES, Kind
from service.domain.result import FrameMasks, SoundEvent
from service.formats.choose import MEDIA_TYPES
from service.formats.documents import CocoDocument, PolygonAnswer
from service.rest.errors import PROBLEM_MEDIA_TYPE, status_of
from service.rest.requests.request_head import JSON_TYPE, NDJSON_TYPE, SSE_TYPE

REFERENCE: Final = "#/components/schemas/{model}"
TEXT: Final = {"type": "string"}
BINARY: Final = {"type": "string", "format": "binary"}
_JOB_CODES = ("job_not_found", "job_expired", "job_not_ready")
# What POST /segment may answer with, beside the codes that every route may. Only proxies answer `forbidden`.
SEGMENT_CODES = tuple(
    code
    for code, spec in CODES.items()
    if spec.kind not in (Kind.CANCELLED, Kind.FORBIDDEN)
    and code not in (*_JOB_CODES, "route_not_found", "method_not_allowed", "headers_too_large")
)
_EVERYWHERE = ("headers_too_large", "internal", "too_many_requests", "malformed_body")
# Names of server-sent events: those of an answer, and those of GET /jobs/{id}/events.
_LINE_EVENTS: Final = ("clip", "frame", "event", "heartbeat", "end", "error")
_JOB_EVENTS: Final = ("progress", "frame", "event", "done", "failed")


def problem_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Responses for FastAPI's `responses=`: one per status, naming its codes."""
    by_status: dict[int, list[str]] = {}
    for code in (*codes, *_EVERYWHERE):
        listed = by_status.setdefault(status_of(code), [])
        if code not in listed:
            listed.append(code)
    return {status: _problem_response(by_status[status]) for status in sorted(by_status)}


def _problem_response(codes: list[str]) -> dict[str, Any]:
    lines = [f"- `{code}`: {CODES[code].title}." for code in codes]
    content = {PROBLEM_MEDIA_TYPE: {"schema": reference(Problem)}}
    response: dict[str, Any] = {"description": "\n".join(lines), "content": content}
    if any(CODES[code].kind in (Kind.OVERLOADED, Kind.UNAVAILABLE) for code in codes):
        response["headers"] = header("Retry-After", "Seconds.", {"type": "integer", "minimum": 0})
    if any(CODES[code].kind is Kind.UNAUTHENTICATED for code in codes):
        response["headers"] = header("WWW-Authenticate", "`Bearer`.", TEXT)
    return response


def answer_response(*, has_etag: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return the success of a route that answers with masks, in every format; with `has_etag` also 304."""
    documents = [reference(kind) for kind in (Answer, CocoDocument, PolygonAnswer)]
    lines = [reference(line) for line in LINES]
    content: dict[str, Any] = {media_type.partition(";")[0]: {"schema": TEXT} for media_type in MEDIA_TYPES.values()}
    content["application/zip"] = {"schema": BINARY}
    content[JSON_TYPE] = {"schema": {"anyOf": documents, "description": "The formats `json`, `coco` and `polygons`."}}
    content[NDJSON_TYPE] = {"schema": {"oneOf": lines, "description": "One of these a line."}}
    content[SSE_TYPE] = {"schema": _event_stream(_LINE_EVENTS, {"oneOf": lines})}
    found: dict[int | str, dict[str, Any]] = {200: {"description": "The masks.", "content": content}}
    if has_etag:
        found[200]["headers"] = etag = header("ETag", "For `If-None-Match`.", TEXT)
        found[304] = {"description": "The answer that the client has is this one.", "headers": etag}
    return found


def job_events_response() -> dict[int | str, dict[str, Any]]:
    """Return the success of GET /jobs/{id}/events."""
    data = {"oneOf": [reference(kind) for kind in (JobStatus, FrameMasks, SoundEvent)]}
    schema = _event_stream(_JOB_EVENTS, data, required=("event", "data", "id"))
    return body_response(200, "Events of the job.", schema, media_type=SSE_TYPE)


def body_response(
    status: int,
    description: str,
    schema: type | Mapping[str, Any],
    *,
    media_type: str = JSON_TYPE,
    headers: Mapping[str, str] | None = None,
) -> dict[int | str, dict[str, Any]]:
    """Return a success for FastAPI's `responses=`.

    Args:
        status: of HTTP.
        description: what the body is.
        schema: a class that /openapi.json describes, or a JSON schema.
        media_type: of the body.
        headers: of the response, with their descriptions.
    """
    shape = reference(schema) if isinstance(schema, type) else dict(schema)
    response: dict[str, Any] = {"description": description, "content": {media_type: {"schema": shape}}}
    for name, text in (headers or {}).items():
        response.setdefault("headers", {}).update(header(name, text, TEXT))
    return {status: response}


def header(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response header that is always sent."""
    return {name: {"description": description, "required": True, "schema": dict(schema)}}


def reference(kind: type) -> dict[str, str]:
    """Return the reference to the schema of a class."""
    return {"$ref": REFERENCE.format(model=kind.__name__)}


def _event_stream(
    names: tuple[str, ...], data: dict[str, Any], *, required: tuple[str, ...] = ("event", "data")
) -> dict[str, Any]:
    """Return the schema of each server-sent event; OpenAPI 3.1 has none for the stream."""
    body = {**TEXT, "contentMediaType": JSON_TYPE, "contentSchema": data}
    return {
        "type": "object",
        "description": "One server-sent event.",
        "required": list(required),
        "properties": {"event": {"enum": list(names)}, "data": body, "id": TEXT},
    }
