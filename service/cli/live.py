"""`avesformer live`: a camera, a network stream or a file in real time over SegmentLive, to lines or an overlay."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from service.cli.option_flags import with_option_flags
from service.cli.settings import complain
from service.codec.live_json import encode_live_event
from service.domain.errors import ServiceError
from service.domain.live import LiveEvent, LiveOptions
from service.domain.option_table import options_of, parse_fields

if TYPE_CHECKING:
    from service.client.video.live_example import LiveOverlay

_STDOUT = Path("-")


@with_option_flags(options_of(LiveOptions))
def live(
    source: Annotated[str, typer.Argument(help="Camera (/dev/video0), network stream (rtsp://…) or file.")],
    output: Annotated[
        Path | None,
        typer.Option(help="NDJSON lines, or an overlay (.mp4); - is stdout, the default."),
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Overlay: an .mp4 file, or - for a stream on stdout that a player shows.")
    ] = None,
    url: Annotated[str, typer.Option(help="Address of a running service, grpc:// or grpcs://.")] = (
        "grpc://127.0.0.1:50051"
    ),
    microphone: Annotated[
        str | None, typer.Option(help="ALSA name of the camera's microphone, such as default.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Stop after so many seconds.")] = float("inf"),
    api_key: Annotated[
        str | None, typer.Option(envvar="AVES_API_KEY", help="API key; prefer the environment variable.")
    ] = None,
    *,
    fields: dict[str, str],
) -> None:
    """Segment SOURCE while it plays. Lost connections are opened again, to the service and to a network stream."""
    from service.client.video.live_capture import CapturePolicy
    from service.client.video.live_example import RECONNECTING, LiveOverlay, LivePlan

    try:
        options = parse_fields(LiveOptions, fields)
    except ServiceError as error:
        complain(error.detail)
        raise typer.Exit(2) from None
    logging.basicConfig(level="WARNING", format="%(message)s")
    camera_format = "v4l2" if source.startswith("/dev/") else None
    lines, target = _targets(output, overlay)
    plan = LivePlan(
        CapturePolicy(source, camera_format=camera_format, microphone=microphone),
        url,
        target,
        seconds,
        options=options,
        client=replace(RECONNECTING, api_key=api_key),
    )
    running = LiveOverlay(plan)
    try:
        if lines is None:
            running.run()
        else:
            _write_lines(running, lines)
    except ServiceError as error:
        complain(error.detail)
        raise typer.Exit(2 if error.code == "bad_option" else 1) from None
    except KeyboardInterrupt:
        pass
    report = running.report
    counts = f"{report.num_frames} frames, {report.num_dropped} dropped"
    print(f"{counts}; connections to the service: {report.num_connections}", file=sys.stderr)


def _targets(output: Path | None, overlay: Path | None) -> tuple[Path | None, Path | BinaryIO | None]:
    """Return the targets of lines and overlay, None where there are none. Exits with 2 if stdout would be both."""
    if output is not None and output.suffix.lower() == ".mp4":
        output, overlay = None, overlay or output
    elif output is None and overlay is None:
        output = _STDOUT
    if output == overlay == _STDOUT:
        complain("--overlay -: the lines go to stdout too; give them a file with --output")
        raise typer.Exit(2)
    return output, sys.stdout.buffer if overlay == _STDOUT else overlay


def _write_lines(running: LiveOverlay, output: Path) -> None:
    if output == _STDOUT:
        running.on_event = _writer(lambda line: print(line, flush=True))
        running.run()
        return
    with output.open("w", encoding="utf-8") as file:
        running.on_event = _writer(lambda line: print(line, file=file, flush=True))
        running.run()


def _writer(write: Callable[[str], None]) -> Callable[[LiveEvent], None]:
    def take(event: LiveEvent) -> None:
        write(encode_live_event(event))

    return take
