"""Options in JSON objects, as the text fields that options are parsed from."""

from __future__ import annotations

import json
from typing import Any

from service.domain.errors import ServiceError

_SHOWN_CHARS = 64


def decode_object(data: str | bytes) -> dict[str, Any]:
    """Return a JSON object; raises `malformed_body` for anything else."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ServiceError("malformed_body", "Send one JSON object.")
    return message


def option_text(name: str, value: object) -> str:
    """Return the text of an option; raises `bad_option` for a value that is no number, text or list of texts."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise ServiceError("bad_option", f"{name[:_SHOWN_CHARS]}: give a number, a text or a list of texts.")


def option_texts(message: dict[str, Any]) -> dict[str, str]:
    """Return the text fields of an object's members; null counts as not given."""
    return {name: option_text(name, value) for name, value in message.items() if value is not None}
