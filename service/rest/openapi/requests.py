"""Parameters and bodies of the routes for /openapi.json, derived from the declared options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Query
from pydantic import WithJsonSchema

from service.domain.option_table import Option
from service.domain.options import OPTIONS
from service.rest.openapi.responses import BINARY
from service.rest.requests.request_head import JSON_TYPE, MAX_TIMEOUT_S, RAW_TYPES

# Of every route that asks for a key where keys are set.
SECURITY: Final[list[dict[str, list[str]]]] = [{}, {"bearer": []}]
_TIMEOUT: Final = {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S}
# Request headers of every route that takes a clip: description and JSON schema.
_HEADERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "X-Request-ID": ("Up to 128 safe characters; echoed. Default: a new id.", {"type": "string"}),
    "X-Request-Timeout": ("Deadline of the request, in seconds.", _TIMEOUT),
    "Idempotency-Key": ("A repeated request with the same key gets the first answer.", {"type": "string"}),
    "Cache-Control": ("`no-cache` bypasses the result cache.", {"type": "string"}),
    "traceparent": ("W3C Trace Context: the span that this request is part of.", {"type": "string"}),
}


def upload_request_body(*more: Option) -> dict[str, Any]:
    """Return the body of a route that takes a clip: a form or the raw bytes.

    Args:
        more: options of this route beside those of every answer.
    """
    video = {**BINARY, "description": "An MP4 or MOV file."}
    options = {option.name: option.json_schema() for option in (*OPTIONS, *more)}
    form = {"type": "object", "required": ["video"], "properties": {"video": video, **options}}
    encoding = {"video": {"contentType": ", ".join(RAW_TYPES)}}
    raw: dict[str, Any] = {media_type: {"schema": video} for media_type in RAW_TYPES}
    url = {"type": "string", "format": "uri", "description": "Address of the clip; see AVES_FETCH_HOSTS."}
    named = {"type": "object", "required": ["url"], "properties": {"url": url, **options}}
    content = {"multipart/form-data": {"schema": form, "encoding": encoding}, **raw, JSON_TYPE: {"schema": named}}
    return {"required": True, "content": content}


def upload_parameters(*more: Option) -> Any:
    """Return a FastAPI dependency whose parameters are the options, as query fields, and the headers of an upload.

    FastAPI documents them and accepts any text. `parse_head` and `parse_options` check the values, because their errors
    come after the checks of the API key and of the load, and count in the metrics.

    Args:
        more: options of this route beside those of every answer.
    """
    parameters = [_option_parameter(option) for option in (*OPTIONS, *more)]
    parameters += [_header_parameter(name, *described) for name, described in _HEADERS.items()]
    return _declared(parameters)


def query_parameters(*options: Option, headers: Mapping[str, tuple[str, dict[str, Any]]] | None = None) -> Any:
    """Return a FastAPI dependency that documents a route without a body.

    Args:
        options: its query parameters.
        headers: its own request headers, with their descriptions and JSON schemas.
    """
    own = [_header_parameter(name, *described) for name, described in (headers or {}).items()]
    return _declared([*(_option_parameter(option) for option in options), *own])


def _option_parameter(option: Option) -> inspect.Parameter:
    return _parameter(option.name, Query(description=option.description), option.json_schema())


def _header_parameter(name: str, description: str, schema: dict[str, Any]) -> inspect.Parameter:
    return _parameter(name.lower().replace("-", "_"), Header(alias=name, description=description), schema)


def _declared(parameters: list[inspect.Parameter]) -> Any:
    async def declared(**_: str | None) -> None:
        return None

    declared.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect.signature
    return Depends(declared)


def _parameter(name: str, place: Any, schema: dict[str, Any]) -> inspect.Parameter:
    annotation = Annotated[str | None, WithJsonSchema(schema), place]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
