"""The `avesformer` command. Each command imports its own heavy modules, so that `--help` is fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from service.cli.garbage import pause_collection
from service.cli.settings import complain, load_settings


class _Commands(TyperGroup):
    """The commands; for shell completion the real ones, so that their flags are completed too."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name."""
        if "_AVESFORMER_COMPLETE" in os.environ and cmd_name in _FORWARDED:
            module_name, _, attribute = _FORWARDED[cmd_name][0].partition(":")
            return _real_command(cmd_name, _import(cmd_name, module_name, attribute))
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="avesformer",
    help="Find the pixels of a video that make the sound: serve, run and train the model.",
    no_args_is_help=True,
    cls=_Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120},
)

# Commands in other modules: import path and help text.
_FORWARDED: dict[str, tuple[str, str]] = {
    "segment": ("service.cli.segment:segment", "Segment clips to JSON and video, here or with a running service."),
    "live": ("service.cli.live:live", "Segment a camera, a network stream or a file while it plays."),
    "bench": ("service.cli.bench:bench", "Measure model, decoding, encoding and service."),
    "synthesize": ("model.cli.main:app", "Write synthetic clips with ground truth, or audit the synthetic world."),
    "train": ("model.cli.main:app", "Train a recipe (`train --list`)."),
    "evaluate": ("model.cli.main:app", "Evaluate a checkpoint."),
    "data": ("model.cli.main:app", "Verify or convert data sets."),
    "average": ("model.cli.main:app", "Average the weights of several checkpoints."),
    "export": ("model.cli.main:app", "Export a checkpoint to ONNX or torch."),
    "ablate": ("model.cli.main:app", "Train `tiny` with one part changed at a time."),
}
# `service` and `model` in the repository, `avesformer` in an installed wheel (see deploy/wheel).
_OUR_PACKAGES = {target.partition(".")[0] for target, _ in _FORWARDED.values()}

Host = Annotated[str | None, typer.Option(help="Address to bind (AVES_HOST, 127.0.0.1).")]
Port = Annotated[int | None, typer.Option(help="HTTP port (AVES_PORT, 8000).")]
GrpcPort = Annotated[int | None, typer.Option(help="gRPC port (AVES_GRPC_PORT, 50051).")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="File or shipped name: lite, tiny, tiny-semantic (AVES_CHECKPOINT, lite).")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N (AVES_DEVICE, auto).")]
RedisUrl = Annotated[str | None, typer.Option("--redis", help="Redis URL (AVES_REDIS_URL, none).")]


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    grpc_port: GrpcPort = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    redis: RedisUrl = None,
) -> None:
    """Start the service: REST and gRPC in one process."""
    settings = load_settings(
        host=host, port=port, grpc_port=grpc_port, checkpoint=checkpoint, device=device, redis_url=redis
    )
    pause_collection()  # before the imports, which create hundreds of thousands of permanent objects
    from service.cli.serve import run_front

    raise typer.Exit(run_front(settings))


@app.command()
def worker(
    redis: RedisUrl = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    host: Host = None,
    port: Annotated[int | None, typer.Option(help="Ops port: livez, readyz, metrics (AVES_WORKER_PORT, 8001).")] = None,
) -> None:
    """Start a worker: segment chunks that fronts send through Redis."""
    settings = load_settings(redis_url=redis, checkpoint=checkpoint, device=device, host=host, worker_port=port)
    if settings.redis_url is None:
        complain("a worker needs --redis URL (or AVES_REDIS_URL)")
        raise typer.Exit(2)
    pause_collection()
    from service.cli.worker import run_worker

    raise typer.Exit(run_worker(settings))


@app.command("check-config")
def check_config(
    example: Annotated[bool, typer.Option("--example", help="Print the defaults as .env.example instead.")] = False,
) -> None:
    """Show the effective settings with secrets masked. Exits with 2 and names the field if a setting is invalid."""
    if example:
        print(example_environment(), end="")
        return
    from service.settings import Settings

    settings = load_settings()
    width = max(len(name) for name in Settings.model_fields)
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        shown = "" if value is None else str(value)
        print(f"AVES_{name.upper():<{width}}  {shown:<24}  {field.description}")


def example_environment() -> str:
    """Return the text of `.env.example`: every setting with its meaning, unit and default (empty: none)."""
    from service.settings import Settings

    lines = ["# Settings of the service; the environment wins over this file's values. Made by:"]
    lines.append("#   avesformer check-config --example > .env.example")
    for name, field in Settings.model_fields.items():
        default = (
            "" if field.default is None else str(field.default).lower() if field.annotation is bool else field.default
        )
        lines += ["", f"# {field.description}", f"AVES_{name.upper()}={default}"]
    return "\n".join(lines) + "\n"


def _forward(name: str, target: str, summary: str) -> None:
    """Add a command that passes its arguments to another module, which is imported when the command runs."""
    context_settings = {"ignore_unknown_options": True, "allow_extra_args": True, "allow_interspersed_args": False}

    def command(context: typer.Context) -> None:
        module_name, _, attribute = target.partition(":")
        found = _import(name, module_name, attribute)
        if isinstance(found, typer.Typer):
            found(args=[name, *context.args], prog_name="avesformer")
            return
        _real_command(name, found)(args=list(context.args), prog_name=f"avesformer {name}")

    app.command(name, help=summary, add_help_option=False, context_settings=context_settings)(command)


def _real_command(name: str, found: Any) -> Any:
    """Return the command that another module holds: a function, or an app with several commands."""
    if isinstance(found, typer.Typer):
        group = typer.main.get_command(found)
        assert isinstance(group, TyperGroup)
        return group.commands[name]
    wide = {"max_content_width": 120}
    single = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=wide
    )
    single.command(name)(found)
    return typer.main.get_command(single)


def _import(name: str, module_name: str, attribute: str) -> Callable[..., Any]:
    try:
        found: Callable[..., Any] = getattr(import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        _complain_of_missing(error, f"avesformer {name}")
        raise typer.Exit(1) from None
    return found


def _complain_of_missing(error: ModuleNotFoundError, command: str) -> None:
    """Print which package to install (the client can be installed alone). Re-raise `error` for a module of our own."""
    package = (error.name or "").partition(".")[0]
    if package in _OUR_PACKAGES:
        raise error
    complain(f"`{command}` needs the package {package!r}; install it with: pip install '.[model]'")


for _name, (_target, _summary) in _FORWARDED.items():
    _forward(_name, _target, _summary)


def main() -> None:
    """Entry point of the `avesformer` script."""
    try:
        app()
    except ModuleNotFoundError as error:
        _complain_of_missing(error, " ".join(["avesformer", *sys.argv[1:2]]))
        raise SystemExit(1) from None
