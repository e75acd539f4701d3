"""The complete /openapi.json: every status and every problem of every route."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Header, Query
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter, WithJsonSchema

from service.codec.answer_json import LINES, Answer
from service.codec.job_json import OPTIONAL_MEMBERS, JobStatus
from service.codec.problem_json import Problem
from service.domain.errors import CODES, Kind
from service.domain.option_table import Option
from service.domain.options import OPTIONS
from service.rest.errors import PROBLEM_MEDIA_TYPE, status_of
from service.rest.request_head import JSON_TYPE, NDJSON_TYPE, RAW_TYPES, SSE_TYPE

_REF = "#/components/schemas/{model}"
# Bodies that /openapi.json describes under their class names, and their members that may be absent.
DOCUMENTED: Final = (Problem, Answer, JobStatus, *LINES)
_OPTIONAL: Final = {"Mask": ("track_id",), "Problem": ("retry_after_s",), "JobStatus": OPTIONAL_MEMBERS}
_JOB_CODES = ("job_not_found", "job_expired", "job_not_ready")
SEGMENT_CODES = tuple(
    code
    for code, spec in CODES.items()
    if spec.kind not in (Kind.CANCELLED, Kind.FORBIDDEN)
    and code not in (*_JOB_CODES, "route_not_found", "method_not_allowed", "headers_too_large")
)
"""What POST /segment may answer with; 404, 405 and 431 are of every route and are added to all of them. Only proxies
answer `forbidden`."""
_EVERYWHERE = ("headers_too_large", "internal", "too_many_requests", "malformed_body")

# Request headers of every route that takes a clip: description and JSON schema.
_HEADERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "X-Request-ID": ("Up to 128 safe characters; echoed. Default: a new id.", {"type": "string"}),
    "X-Request-Timeout": ("Deadline of the request, in seconds.", {"type": "number", "exclusiveMinimum": 0}),
    "Idempotency-Key": ("A repeated request with the same key gets the first answer.", {"type": "string"}),
    "Cache-Control": ("`no-cache` bypasses the result cache.", {"type": "string"}),
    "traceparent": ("W3C Trace Context: the span that this request is part of.", {"type": "string"}),
}


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
    schema = {"$ref": _REF.format(model="Problem")}
    response: dict[str, Any] = {"description": "\n".join(lines), "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}
    if any(CODES[code].kind in (Kind.OVERLOADED, Kind.UNAVAILABLE) for code in codes):
        response["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return response


def upload_request_body() -> dict[str, Any]:
    """Return the body of POST /segment: a form or the raw bytes."""
    video = {"type": "string", "format": "binary", "description": "An MP4 or MOV file."}
    options = {option.name: option.json_schema() for option in OPTIONS}
    form = {"type": "object", "required": ["video"], "properties": {"video": video, **options}}
    raw: dict[str, Any] = {media_type: {"schema": video} for media_type in RAW_TYPES}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}, **raw}}


def upload_parameters(*more: Option) -> Any:
    """Return a FastAPI dependency whose parameters are the options, as query fields, and the headers of an upload.

    FastAPI documents them and accepts any text. `parse_head` and `parse_options` check the values, because their errors
    come after the checks of the API key and of the load, and count in the metrics.

    Args:
        more: options of this route beside those of POST /segment.
    """
    parameters = [_option_parameter(option) for option in (*OPTIONS, *more)]
    for name, (description, schema) in _HEADERS.items():
        place = Header(alias=name, description=description)
        parameters.append(_parameter(name.lower().replace("-", "_"), place, schema))
    return _declared(parameters)


def query_parameters(*options: Option) -> Any:
    """Return a FastAPI dependency that documents options of a route without a body."""
    return _declared([_option_parameter(option) for option in options])


def _option_parameter(option: Option) -> inspect.Parameter:
    return _parameter(option.name, Query(description=option.description), option.json_schema())


def _declared(parameters: list[inspect.Parameter]) -> Any:
    async def declared(**_: str | None) -> None:
        return None

    declared.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    return Depends(declared)


def _parameter(name: str, place: Any, schema: dict[str, Any]) -> inspect.Parameter:
    annotation = Annotated[str | None, WithJsonSchema(schema), place]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def segment_responses() -> dict[int | str, dict[str, Any]]:
    """200 in both media types, and every problem."""
    lines = [{"$ref": _REF.format(model=line.__name__)} for line in LINES]
    answer = {
        JSON_TYPE: {"schema": {"$ref": _REF.format(model="Answer")}},
        NDJSON_TYPE: {"schema": {"oneOf": lines, "description": "One of these a line."}},
        **{
            media_type: {"schema": {"type": "string"}}
            for media_type in (SSE_TYPE, "application/zip", "text/vtt", "text/csv")
        },
    }
    request_id = {"X-Request-ID": {"description": "The request's id.", "schema": {"type": "string"}}}
    return {200: {"description": "The masks.", "content": answer, "headers": request_id}} | problem_responses(
        *SEGMENT_CODES
    )


def describe_api(app: FastAPI, *, version: str) -> dict[str, Any]:
    """The document of `app`."""
    document: dict[str, Any] = get_openapi(
        title="AVESFormer service",
        version=version,
        summary="Which pixels of a video make the sound.",
        description="Audio-visual segmentation (AVESFormer, open reconstruction). Every error is a problem document.",
        routes=app.routes,
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(_schemas())
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "Where keys are set."}
    }
    _without_framework_errors(document)
    return document


def _schemas() -> dict[str, Any]:
    """Return the schemas of all documented bodies; every member is always sent, except those of `_OPTIONAL`."""
    kinds = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in DOCUMENTED]
    _, described = TypeAdapter.json_schemas(kinds, ref_template=_REF)  # type: ignore[arg-type]  # a list of three modes
    schemas: dict[str, Any] = described["$defs"]
    for name, schema in schemas.items():
        members = [member for member in schema["properties"] if member not in _OPTIONAL.get(name, ())]
        schema["required"] = members
    return schemas


def _without_framework_errors(document: dict[str, Any]) -> None:
    """Take out the 422 body that FastAPI documents by itself for path parameters; no route ever sends it."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for operation in (found for path in document["paths"].values() for found in path.values()):
        content = operation["responses"].get("422", {}).get("content", {})
        if "HTTPValidationError" in str(content.get(JSON_TYPE, "")):
            del operation["responses"]["422"]
