"""A clear error where a tool is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service.domain.errors import ServiceError


@contextmanager
def needed(package: str) -> Iterator[None]:
    """Around the import of a package; raises `bad_option` where it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ServiceError("bad_option", f"This needs {package}: pip install {package}") from None
