"""Routes that read their parameters themselves and declare them only for the API description."""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class DescribedRoute(APIRoute):
    """A route whose endpoint takes no arguments and answers with an ASGI application.

    FastAPI would parse every declared query parameter and header of each request and drop the result, which was a third
    of the cost of a refused request. Two exit stacks and a second handler of exceptions for each request are left out,
    too; the application handles exceptions outside of its routes.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint and its answer; another method is refused as FastAPI does."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        answer = await self.endpoint()
        await answer(scope, receive, send)
