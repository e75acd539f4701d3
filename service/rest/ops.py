"""Routes for operators and orchestrators: livez, readyz, metrics, version."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.domain.errors import ServiceError
from service.rest.errors import Problem
from service.rest.openapi.responses import TEXT, body_response, problem_responses
from service.rest.parts import Probes

_MODEL_SCHEMA: Final = {
    "type": ["object", "null"],
    "description": "Null until the model is loaded.",
    "required": ["variant", "checkpoint", "labels", "compute_type", "device"],
    "properties": {
        "variant": {"type": "string"},
        "checkpoint": {"type": "string"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "compute_type": {"type": ["string", "null"], "description": "Null in a front whose workers choose."},
        "device": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
    },
}
_VERSION_SCHEMA: Final = {
    "type": "object",
    "required": ["service", "python", "model"],
    "properties": {
        "service": {"type": "string"},
        "python": {"type": "string"},
        "model": _MODEL_SCHEMA,
        "media": {"type": "object", "description": "FFmpeg's version, and which features of the sandbox are on."},
    },
}


def _status_schema(word: str) -> dict[str, object]:
    return {"type": "object", "required": ["status"], "properties": {"status": {"const": word}}}


def build_ops_router(probes: Probes) -> APIRouter:
    """Return the ops routes. They use local facts only, ask for no key and do not count as requests."""
    router = APIRouter(tags=["operations"])

    async def livez(request: Request) -> Response:
        """200 while the process and its device can work; 503 means that it should be started anew."""
        if probes.is_alive():
            return JSONResponse({"status": "alive"})
        return _refusal(ServiceError("backend_down", "The device or the decoders of this process are gone."), request)

    async def readyz(request: Request) -> Response:
        """200 when a request sent now would be taken: model loaded and warm, not draining."""
        error = probes.unready()
        return JSONResponse({"status": "ready"}) if error is None else _refusal(error, request)

    async def metrics() -> Response:
        """Prometheus' text format."""
        body, content_type = probes.metrics.render()
        return Response(body, headers={"Content-Type": content_type})

    async def version() -> Response:
        """Versions, the model, and which sandbox features are on."""
        return JSONResponse(dict(await probes.describe_version()))

    unavailable = problem_responses("warming_up", "draining", "backend_down")
    add = router.add_api_route
    for path, endpoint, word in (("/livez", livez, "alive"), ("/readyz", readyz, "ready")):
        body = body_response(200, endpoint.__doc__ or "", _status_schema(word))
        add(path, endpoint, methods=["GET"], responses=body | unavailable, response_class=Response)
    text = body_response(200, "Prometheus' text format.", TEXT, media_type="text/plain")
    add("/metrics", metrics, methods=["GET"], responses=text | problem_responses(), response_class=Response)
    facts = body_response(200, "The versions.", _VERSION_SCHEMA)
    add("/version", version, methods=["GET"], responses=facts | problem_responses(), response_class=Response)
    heads: tuple[tuple[str, Callable[..., Awaitable[Response]]], ...] = (
        ("/livez", livez),
        ("/readyz", readyz),
        ("/metrics", metrics),
        ("/version", version),
    )
    for path, head in heads:
        add(path, head, methods=["HEAD"], include_in_schema=False)
    return router


def _refusal(error: ServiceError, request: Request) -> Response:
    problem = Problem(error, request.scope["state"]["request_id"])
    return Response(problem.encoded(), status_code=problem.status, headers=problem.headers())
