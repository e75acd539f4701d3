"""`avesformer live`: a camera, a network stream or a file in real time over SegmentLive, to lines or an overlay."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    output: Annotated[Path, typer.Option(help="Overlay (.mp4), or NDJSON lines; - is stdout.")] = _STDOUT,
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
    is_overlay = output.suffix.lower() == ".mp4"
    plan = LivePlan(
        CapturePolicy(source, camera_format=camera_format, microphone=microphone),
        url,
        output if is_overlay else None,
        seconds,
        options=options,
        client=replace(RECONNECTING, api_key=api_key),
    )
    running = LiveOverlay(plan)
    try:
        if is_overlay:
            running.run()
        else:
            _write_lines(running, output)
    except ServiceError as error:
        complain(error.detail)
        raise typer.Exit(2 if error.code == "bad_option" else 1) from None
    except KeyboardInterrupt:
        pass
    report = running.report
    summary = f"{report.num_frames} frames, {report.num_dropped} dropped, {report.num_connections} connections"
    print(summary, file=sys.stderr)


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
