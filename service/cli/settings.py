"""Helpers of all commands: load settings from environment and options, print an error line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from service.settings import Settings


def load_settings(**overrides: object) -> Settings:
    """Load settings from the environment and the command line. Exits with code 2 if one is invalid."""
    # Imported here because importing pydantic takes longer than the rest of `avesformer --help`.
    from pydantic import ValidationError

    from service.settings import Settings as LoadedSettings

    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return LoadedSettings(**given)  # type: ignore[arg-type]  # checked by pydantic
    except ValidationError as error:
        for fault in error.errors():
            name = "_".join(str(part) for part in fault["loc"][:1]).upper()
            message = str(fault["msg"]).removeprefix("Value error, ")
            complain(f"AVES_{name}: {message}" if name else message)
        raise typer.Exit(2) from None


def complain(line: str) -> None:
    """Print one error line to stderr."""
    print(f"avesformer: {line}", file=sys.stderr)
