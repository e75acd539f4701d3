"""Command-line flags for the request options declared in `service.domain`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from service.domain.option_table import Option
from service.domain.option_types import Flag


def with_option_flags(options: Iterable[Option]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a typer command one flag per option.

    The command receives the given flags as a keyword argument `fields`, a dict of option names to texts. Parse it with
    `parse_options`, so that the command line and the service accept the same values.
    """
    declared = tuple(options)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_fields(**given: Any) -> None:
            values = {option.name: given.pop(option.name) for option in declared}
            fields = {name: str(value) for name, value in values.items() if value not in (None, False)}
            command(fields=fields, **given)

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "fields"]
        flags = [_flag(option) for option in declared]
        keyword_only = inspect.Parameter.KEYWORD_ONLY
        parameters = [parameter.replace(kind=keyword_only) for parameter in (*own, *flags)]
        with_fields.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # for typer
        with_fields.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_fields

    return decorate


def _flag(option: Option) -> inspect.Parameter:
    text = typer.Option(f"--{option.name.replace('_', '-')}", help=option.description)
    annotation: Any = Annotated[str | None, text]
    default: object = None
    if isinstance(option.type, Flag):
        annotation, default = Annotated[bool, text], False
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
