"""Typed Python client: REST and gRPC, blocking and async; needs neither torch nor FastAPI."""
