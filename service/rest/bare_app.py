"""A FastAPI application without routes: request ids, and one form of errors."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.errors import ServiceError
from service.domain.request import accept_request_id, accept_traceparent
from service.rest.connection.protocol import connection_of
from service.rest.errors import Problem, send_problem

logger = logging.getLogger(__name__)


def bare_app(version: str) -> FastAPI:
    """Return an application that answers every request with its id, and every error as a problem."""
    app = FastAPI(
        title="AVESFormer service",
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # The service has metrics and traces of its own (service/telemetry/).
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_middleware(_RequestEnvelope)
    return app


class _RequestEnvelope:
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
