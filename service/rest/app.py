"""The FastAPI application of a front: all routes, and the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from service.rest.bare_app import bare_app
from service.rest.connection.proxy import BehindProxy, ProxyPolicy
from service.rest.openapi.document import describe_api
from service.rest.ops import build_ops_router
from service.rest.parts import RestParts
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
    app = bare_app(version)
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
    # Routes are tried in this order, those of most requests first.
    for router in (build_segment_router(parts), *routers, build_ops_router(parts.probes)):
        app.include_router(router, prefix="/v1")
        app.include_router(router, include_in_schema=False)
    app.include_router(_page_router(app, version=version), include_in_schema=False)
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
