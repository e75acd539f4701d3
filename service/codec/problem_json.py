"""Errors as JSON: problem documents (RFC 9457)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from pydantic import TypeAdapter

from service.domain.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Problem:
    """An error. Programs decide by `code`, which is stable; `detail` says what was wrong with this request."""

    type: str = field(default="", metadata={"examples": ["urn:avesformer:problem:no_audio"]})
    title: str = ""
    status: int = 500
    detail: str = ""
    code: str = field(default="", metadata={"description": "Stable name of the error."})
    request_id: str = ""
    retry_after_s: int | float | None = field(
        default=None, metadata={"description": "Seconds to wait before a retry; absent if retrying cannot help."}
    )

    @classmethod
    def of(cls, error: ServiceError, *, status: int, request_id: str) -> Problem:
        """Return the problem document of an error."""
        wait_s = error.wait_s
        return cls(
            code=error.code,
            detail=error.detail,
            title=error.spec.title,
            status=status,
            type=f"urn:avesformer:problem:{error.code}",
            request_id=request_id,
            retry_after_s=None if wait_s is None else max(1, math.ceil(wait_s)),
        )

    def encode(self) -> bytes:
        """Return the document's bytes."""
        return bytes(_PROBLEM.dump_json(self, exclude_none=True))


def decode_problem(data: bytes) -> Problem:
    """Return a problem document; raises ValueError for anything else. Members may be missing."""
    return _PROBLEM.validate_json(data)


_PROBLEM: Final = TypeAdapter(Problem)
