"""The FastAPI application: routes, request ids, and one form of errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.errors import ServiceError
from service.domain.request import accept_request_id, accept_traceparent
from service.rest.connection.protocol import connection_of
from service.rest.connection.proxy import BehindProxy, ProxyPolicy
from service.rest.errors import Problem, send_problem
from service.rest.openapi.document import describe_api
from service.rest.ops import build_ops_router
from service.rest.parts import Probes, RestParts
from service.rest.segment import build_segment_router

logger = logging.getLogger(__name__)
_STATIC = Path(__file__).parent / "static"
_STATIC_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
}
# The package that brings Swagger UI's files; nothing else of it is used. Where it is missing, `/docs` says so.
_SWAGGER_UI = find_spec("fastapi_swagger")
# Names are looked up here and never become paths.
_STATIC_FILES = {
    path.relative_to(_STATIC).as_posix(): path for path in _STATIC.rglob("*") if path.suffix in _STATIC_TYPES
}
if _SWAGGER_UI is not None and _SWAGGER_UI.origin is not None:
    _STATIC_FILES |= {
        f"swagger_ui/{path.name}": path
        for path in (Path(_SWAGGER_UI.origin).parent / "resources").glob("*")
        if path.suffix in _STATIC_TYPES
    }
_CORS_REQUEST_HEADERS = (
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "X-Request-ID",
    "X-Request-Timeout",
    "traceparent",
)
_CORS_ANSWER_HEADERS = ("ETag", "Location", "Retry-After", "WWW-Authenticate", "X-Request-ID")
_CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self'; script-src 'self'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class EdgePolicy:
    """Proxies in front of the service, and origins of other pages (`*` for all)."""

    proxy: ProxyPolicy = field(default_factory=ProxyPolicy)
    cors_origins: tuple[str, ...] = ()


def create_app(
    parts: RestParts, *, version: str, routers: Sequence[APIRouter] = (), edge: EdgePolicy | None = None
) -> FastAPI:
    """Build the application.

    Args:
        parts: the core.
        version: version of the service.
        routers: further routes (jobs, bench), under both prefixes too.
        edge: proxies and origins of other sites; none by default.
    """
    app = _bare_app(version)
    edge = edge or EdgePolicy()
    if edge.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=edge.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=_CORS_REQUEST_HEADERS,
            expose_headers=_CORS_ANSWER_HEADERS,
        )
    app.add_middleware(BehindProxy, policy=edge.proxy)
    for router in (build_segment_router(parts), build_ops_router(parts.probes), *routers):
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)
    app.include_router(_page_router(app, version=version), include_in_schema=False)
    return app


def create_ops_app(probes: Probes, *, version: str) -> FastAPI:
    """Return an application with the ops routes only, for a worker's own port."""
    app = _bare_app(version)
    app.include_router(build_ops_router(probes))
    return app


def _bare_app(version: str) -> FastAPI:
    app = FastAPI(
        title="AVESFormer service",
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_middleware(RequestEnvelope)
    return app


def _page_router(app: FastAPI, *, version: str) -> APIRouter:
    router = APIRouter()
    document: dict[str, Any] = {}

    async def openapi(request: Request) -> dict[str, Any]:
        if not document:
            document.update(describe_api(app, version=version))
        prefix = request.scope["root_path"]
        return {**document, "servers": [{"url": prefix}]} if prefix else document

    async def index(request: Request) -> Response:
        return _page("index.html", request)

    async def docs(request: Request) -> Response:
        return _page("api_docs/docs.html", request)

    async def static(name: str) -> Response:
        path = _STATIC_FILES.get(name)
        if path is None or path.suffix == ".html":
            raise HTTPException(404)
        return FileResponse(path, media_type=_STATIC_TYPES[path.suffix], headers=_PAGE_HEADERS)

    endpoints: dict[str, Callable[..., Any]] = {
        "/": index,
        "/docs": docs,
        "/v1/docs": docs,
        "/openapi.json": openapi,
        "/v1/openapi.json": openapi,
        "/static/{name:path}": static,
    }
    for path, endpoint in endpoints.items():
        router.add_api_route(path, endpoint, methods=["GET", "HEAD"])
    return router


def _page(name: str, request: Request) -> Response:
    """Return a page whose links have the path prefix of a proxy."""
    prefix = request.scope["root_path"]  # letters, digits and ._~-/ only
    text = _STATIC_FILES[name].read_text("utf-8").replace('="/', f'="{prefix}/')
    return Response(text, media_type="text/html", headers=_PAGE_HEADERS)


class RequestEnvelope:
    """Wraps every request: request id in and out, the caller's trace, and errors that no route caught."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope)
        request_id = accept_request_id(headers.get("x-request-id"))
        traceparent = accept_traceparent(headers.get("traceparent"))
        scope.setdefault("state", {}).update(request_id=request_id, traceparent=traceparent)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = connection_of(scope)
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                if connection is not None:
                    connection.close_after_answer_if_body_is_open()
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request failed outside a route", extra={"request_id": request_id})
            if has_started:
                return
            detail = "Something failed inside the service; the failure was logged under this request id."
            error = ServiceError("internal", detail)
            await send_problem(Problem(error, request_id), send=send_with_id, must_close=True)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    headers = dict(error.headers or {})
    if error.status_code == 405:
        ours = ServiceError("method_not_allowed", f"{path} does not take {request.method[:16]}.")
        headers["Allow"] = _allowed(request)
    elif error.status_code == 404:
        ours = ServiceError("route_not_found", f"There is nothing at {path}; /docs lists the routes.")
    else:
        ours = ServiceError("malformed_body", "The request could not be read.")
    return _problem_response(ours, request, extra=headers)


def _allowed(request: Request) -> str:
    """Return the methods that the path takes; the router names those of one of its routes only."""
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "HEAD", "POST")}
    return ", ".join(
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    )


async def _on_validation_error(request: Request, error: Exception) -> Response:
    return _problem_response(ServiceError("bad_option", "A parameter of the route is not as documented."), request)


async def _on_service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return _problem_response(error, request)


def _problem_response(error: ServiceError, request: Request, *, extra: dict[str, str] | None = None) -> Response:
    problem = Problem(error, request.scope["state"]["request_id"])
    headers = {**(extra or {}), **problem.headers()}
    return Response(problem.encoded(), status_code=problem.status, headers=headers)
