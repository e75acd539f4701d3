"""The complete /openapi.json: every status and every problem of every route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from service.codec.answer_json import LINES, Answer
from service.codec.job_json import OPTIONAL_MEMBERS, JobStatus
from service.codec.problem_json import Problem
from service.domain.options import RLE
from service.formats.documents import CocoDocument, PolygonAnswer
from service.rest.openapi.responses import REFERENCE, TEXT, header
from service.rest.requests.request_head import JSON_TYPE

# Bodies that /openapi.json describes under their class names, and their members that may be absent.
DOCUMENTED: Final = (Problem, Answer, CocoDocument, PolygonAnswer, JobStatus, *LINES)
_OPTIONAL: Final = {
    "Mask": ("track_id", "gap_s"),
    "PolygonMask": ("track_id", "gap_s"),
    "AppliedOptions": ("instances",),
    "Problem": ("retry_after_s",),
    "JobStatus": OPTIONAL_MEMBERS,
}


def describe_api(app: FastAPI, *, version: str) -> dict[str, Any]:
    """Return the OpenAPI document of `app`."""
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
    for operation in _operations(document):
        for response in operation["responses"].values():
            response.setdefault("headers", {}).update(header("X-Request-ID", "The request's id.", TEXT))
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query":
                parameter["allowEmptyValue"] = True  # a blank option counts as not given
    return document


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _schemas() -> dict[str, Any]:
    """Return the schemas of all documented bodies; every member is always sent, except those of `_OPTIONAL`."""
    kinds = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in DOCUMENTED]
    _, described = TypeAdapter.json_schemas(kinds, ref_template=REFERENCE)  # type: ignore[arg-type]  # a list of three modes
    schemas: dict[str, Any] = described["$defs"]
    for name, schema in schemas.items():
        members = [member for member in schema["properties"] if member not in _OPTIONAL.get(name, ())]
        schema["required"] = members
    counts = schemas["Rle"]["properties"]["counts"]
    lengths = {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": RLE.help}
    schemas["Rle"]["properties"]["counts"] = {"anyOf": [counts, lengths]}
    return schemas


def _without_framework_errors(document: dict[str, Any]) -> None:
    """Remove the 422 body that FastAPI documents for path parameters. No route ever sends it."""
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    for operation in _operations(document):
        content = operation["responses"].get("422", {}).get("content", {})
        if "HTTPValidationError" in str(content.get(JSON_TYPE, "")):
            del operation["responses"]["422"]
