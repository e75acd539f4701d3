"""The application of a worker's own port: the ops routes only."""

from __future__ import annotations

from fastapi import FastAPI

from service.rest.bare_app import bare_app
from service.rest.ops import build_ops_router
from service.rest.parts import Probes


def create_ops_app(probes: Probes, *, version: str) -> FastAPI:
    """Return an application with the ops routes only, for a worker's own port."""
    app = bare_app(version)
    app.include_router(build_ops_router(probes))
    return app
