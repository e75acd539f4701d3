"""The complete /openapi.json: every status and every problem of every route."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.domain.errors import CODES, Kind
from service.rest.errors import PROBLEM_MEDIA_TYPE, status_of
from service.rest.request_head import JSON_TYPE, NDJSON_TYPE, RAW_TYPES
from service.rest.schemas import DOCUMENTED

_REF = "#/components/schemas/{model}"
_JOB_CODES = ("job_not_found", "job_expired", "job_not_ready")
SEGMENT_CODES = tuple(
    code
    for code, spec in CODES.items()
    if spec.kind is not Kind.CANCELLED
    and code not in (*_JOB_CODES, "route_not_found", "method_not_allowed", "headers_too_large")
)
"""What POST /segment may answer with; 404, 405 and 431 are of every route and are added to all of them."""
_EVERYWHERE = ("headers_too_large", "internal", "too_many_requests", "malformed_body")

OPTION_SCHEMAS: dict[str, dict[str, Any]] = {
    "fps": {
        "description": "Samples per second of clip, or `native` for every frame.",
        "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 60}, {"const": "native"}],
        "default": 1,
    },
    "start_s": {"description": "Start of the part, seconds.", "type": "number", "minimum": 0, "default": 0},
    "end_s": {"description": "End of the part, seconds; the clip's end by default.", "type": "number", "minimum": 0},
    "threshold": {
        "description": "Least probability of a mask's pixels; 0.5 by default (semantic checkpoints: 0).",
        "type": "number",
        "minimum": 0,
        "maximum": 1,
    },
    "size": {
        "description": "Size of the masks: the clip's display size or the model's.",
        "type": "string",
        "enum": ["source", "model"],
        "default": "source",
    },
    "labels": {"description": "Labels to keep, comma separated; all by default.", "type": "string"},
    "min_area": {"description": "Masks under this many pixels are left out.", "type": "integer", "minimum": 0},
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
    """The body of POST /segment: a form or the raw bytes."""
    video = {"type": "string", "format": "binary", "description": "An MP4 or MOV file."}
    form = {"type": "object", "required": ["video"], "properties": {"video": video, **OPTION_SCHEMAS}}
    raw: dict[str, Any] = {media_type: {"schema": video} for media_type in RAW_TYPES}
    return {"required": True, "content": {"multipart/form-data": {"schema": form}, **raw}}


def upload_parameters() -> list[dict[str, Any]]:
    """Query options and headers of POST /segment."""
    options = [
        {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": schema}
        for name, schema in OPTION_SCHEMAS.items()
    ]
    headers = {
        "X-Request-ID": ("Up to 128 safe characters; echoed, made where absent.", {"type": "string"}),
        "X-Request-Timeout": ("The request's deadline, seconds.", {"type": "number", "exclusiveMinimum": 0}),
        "Idempotency-Key": ("The same key and request again get the first answer.", {"type": "string"}),
        "Cache-Control": ("`no-cache` bypasses the result cache.", {"type": "string"}),
        "traceparent": ("W3C Trace Context: the span that this request is part of.", {"type": "string"}),
    }
    return options + [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, (text, schema) in headers.items()
    ]


def segment_responses() -> dict[int | str, dict[str, Any]]:
    """200 in both media types, and every problem."""
    lines = [{"$ref": _REF.format(model=model.__name__)} for model in DOCUMENTED if model.__name__.endswith("Line")]
    answer = {
        JSON_TYPE: {"schema": {"$ref": _REF.format(model="Answer")}},
        NDJSON_TYPE: {"schema": {"oneOf": lines, "description": "One of these a line."}},
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
    _, definitions = models_json_schema([(model, "serialization") for model in DOCUMENTED], ref_template=_REF)
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions["$defs"])
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "Where keys are set."}
    }
    _without_framework_errors(document)
    return document


def _without_framework_errors(document: dict[str, Any]) -> None:
    """Take out the 422 body that FastAPI documents by itself for path parameters; no route ever sends it."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for operation in (found for path in document["paths"].values() for found in path.values()):
        content = operation["responses"].get("422", {}).get("content", {})
        if "HTTPValidationError" in str(content.get(JSON_TYPE, "")):
            del operation["responses"]["422"]
