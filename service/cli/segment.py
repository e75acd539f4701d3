"""`avesformer segment`: write masks of clips as JSON and overlay video, computed here or by a running service."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from service.cli.option_flags import with_option_flags
from service.cli.settings import complain, load_settings
from service.client.answer import Answer, AnswerGatherer
from service.codec.answer_json import encode_document_end, encode_document_start, encode_frame
from service.domain.deadline import Deadline
from service.domain.errors import Kind, ServiceError
from service.domain.options import OPTIONS, RLE, SegmentOptions, parse_options
from service.domain.request import AnswerEvent, ClipStarted, RequestContext, accept_request_id
from service.domain.result import FrameMasks

if TYPE_CHECKING:
    from service.client.grpc_async import AsyncGrpcClient
    from service.client.rest import AsyncRestClient
    from service.media.upload import Spool
    from service.wiring.core import Core

_READ_BYTES = 1024**2
# No limit in bytes: the limits on uploads protect other users, and here the user processes their own file.
_NO_BOUND = 1 << 62
OnEvent = Callable[[AnswerEvent], None]


class Answerer(Protocol):
    """Computes the answer of a clip: in this process, or through a client of a service."""

    async def answer(self, clip: Path, options: SegmentOptions, on_event: OnEvent) -> Answer:
        """Return the complete answer. `on_event` is called with each part when it is ready."""
        ...


@dataclass(frozen=True, slots=True)
class _Targets:
    """Output files of one clip; None for a result that is not written."""

    json: Path | None
    overlay: Path | None
    # Run lengths of the JSON as COCO's strings, else as lists of numbers.
    is_compressed: bool


@with_option_flags((*OPTIONS, RLE))
def segment(
    clips: Annotated[list[Path], typer.Argument(help="MP4 or MOV files.", metavar="CLIP")],
    output: Annotated[Path | None, typer.Option(help="JSON file (a folder for several clips); - is stdout.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Overlay mp4 (a folder for several clips).")] = None,
    url: Annotated[str | None, typer.Option(help="URL of a running service (http, https, grpc, grpcs).")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="AVES_API_KEY", help="API key for --url; prefer the environment variable.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File or shipped name: lite, tiny, tiny-semantic (lite).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    *,
    fields: dict[str, str],
) -> None:
    """Segment the sounding objects of CLIPs. Without --url the model runs in this process; the output is the same."""
    try:
        is_compressed = RLE.parse(fields.pop(RLE.name, "") or str(RLE.default)) == RLE.default
        options = parse_options(fields)
        targets = _plan_targets(clips, output, overlay, is_compressed=is_compressed)
    except ServiceError as error:
        complain(error.detail)
        raise typer.Exit(2) from None
    logging.getLogger().addHandler(logging.NullHandler())  # errors are printed as one line instead of log records
    answering = _remote(url, api_key) if url is not None else _local(checkpoint, device)
    raise typer.Exit(asyncio.run(_segment_all(answering, targets, options)))


async def _segment_all(
    answering: AsyncIterator[Answerer], targets: dict[Path, _Targets], options: SegmentOptions
) -> int:
    num_failed = 0
    try:
        with _progress() as progress:
            loading = progress.add_task("loading the model", total=None)
            async with asynccontextmanager(lambda: answering)() as answerer:
                progress.remove_task(loading)
                for clip, target in targets.items():
                    num_failed += not await _segment_one(answerer, clip, target, options, progress)
    except ServiceError as error:
        complain(error.detail)
        return 2 if error.kind is Kind.INVALID_REQUEST else 1
    except (OSError, ValueError) as error:  # unusable checkpoint or device; the message says why
        complain(str(error))
        return 1
    return 1 if num_failed else 0


async def _segment_one(
    answerer: Answerer, clip: Path, target: _Targets, options: SegmentOptions, progress: Progress
) -> bool:
    """Segment one clip and write its files. On failure print one line to stderr and return False."""
    bar = progress.add_task(clip.name, total=None)
    try:
        answer = await answerer.answer(clip, options, lambda event: _show(event, progress, bar))
        progress.update(bar, total=len(answer.frames), completed=len(answer.frames))
        if target.json is not None:
            _write_json(answer, target.json, is_compressed=target.is_compressed)
        if target.overlay is not None:
            await asyncio.to_thread(_write_overlay, clip, target.overlay, answer, progress)
    except ServiceError as error:
        if error.kind is Kind.INVALID_REQUEST and error.code == "bad_option":
            raise
        complain(f"{clip}: {error.detail}")
        return False
    except OSError as error:
        complain(f"{error.filename or clip}: {error.strerror or error}")
        return False
    return True


class _LocalAnswerer:
    """Runs the pipeline of the service in this process."""

    def __init__(self, core: Core, spool: Spool) -> None:
        self._core = core
        self._spool = spool

    async def answer(self, clip: Path, options: SegmentOptions, on_event: OnEvent) -> Answer:
        with self._core.traces.span("segment") as span:
            return await self._answer(clip, options, on_event, traceparent=span.traceparent)

    async def _answer(self, clip: Path, options: SegmentOptions, on_event: OnEvent, *, traceparent: str) -> Answer:
        upload = await self._spool.open_upload(max_bytes=_NO_BOUND)
        gatherer = AnswerGatherer(on_event)
        context = RequestContext(
            accept_request_id(None), "cli", Deadline(), started_at_s=self._core.clock(), traceparent=traceparent
        )
        try:
            for data in _read_blocks(clip):
                await upload.write(data)
            upload.finish()
            async with aclosing(self._core.pipeline.answer(upload, options, context)) as events:
                async for event in events:
                    gatherer.take(event)
        finally:
            upload.close()
        return gatherer.answer()


class _RemoteAnswerer:
    """Calls a running service through `service.client`."""

    def __init__(self, client: AsyncRestClient | AsyncGrpcClient) -> None:
        self._client = client

    async def answer(self, clip: Path, options: SegmentOptions, on_event: OnEvent) -> Answer:
        return await self._client.segment(clip, options, on_event=on_event)


async def _local(checkpoint: Path | None, device: str | None) -> AsyncIterator[Answerer]:
    from service.media.upload import Spool
    from service.wiring.core import build_core

    settings = load_settings(checkpoint=checkpoint, device=device)
    async with build_core(settings) as core:
        await core.segmenter.start()
        yield _LocalAnswerer(core, Spool(settings.spool_dir, max_bytes=_NO_BOUND))


async def _remote(url: str, api_key: str | None) -> AsyncIterator[Answerer]:
    from service.client.connect import open_async_client
    from service.client.policy import ClientPolicy

    async with open_async_client(url, ClientPolicy(api_key=api_key)) as client:
        yield _RemoteAnswerer(client)


def _read_blocks(clip: Path) -> Iterator[bytes]:
    with clip.open("rb") as file:
        while data := file.read(_READ_BYTES):
            yield data


def _plan_targets(
    clips: list[Path], output: Path | None, overlay: Path | None, *, is_compressed: bool
) -> dict[Path, _Targets]:
    """Return the output files by clip. Raises `bad_option` if results would overwrite each other or their clip."""
    if len(clips) == 1:
        targets = {clips[0]: _Targets(output or (None if overlay else Path("-")), overlay, is_compressed)}
    else:
        names = [clip.stem for clip in clips]
        if len(set(names)) < len(names):
            raise ServiceError("bad_option", "Two clips have the same name; their results would overwrite each other.")
        targets = {
            clip: _Targets(
                _inside(output, f"{clip.stem}.json") or (None if overlay else Path("-")),
                _inside(overlay, f"{clip.stem}.mp4"),
                is_compressed,
            )
            for clip in clips
        }
    for clip, target in targets.items():
        if any(path is not None and path.resolve() == clip.resolve() for path in (target.json, target.overlay)):
            raise ServiceError("bad_option", f"{clip} would be overwritten by its result; choose another name.")
    return targets


def _inside(folder: Path | None, name: str) -> Path | None:
    if folder is None or str(folder) == "-":
        return folder
    return folder / name


def _write_json(answer: Answer, path: Path, *, is_compressed: bool) -> None:
    """Write the answer as the service would send it. `-` is stdout, with one line per clip."""
    if str(path) == "-":
        for part in _json_parts(answer, is_compressed=is_compressed):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as file:
            file.writelines(_json_parts(answer, is_compressed=is_compressed))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _json_parts(answer: Answer, *, is_compressed: bool) -> Iterator[bytes]:
    started = ClipStarted(answer.request_id, answer.model, answer.clip, answer.options)
    yield encode_document_start(started, answer.summary)
    for place, frame in enumerate(answer.frames):
        yield (b"," if place else b"") + encode_frame(frame, is_compressed=is_compressed)
    yield encode_document_end(answer.summary, answer.events)


def _write_overlay(clip: Path, path: Path, answer: Answer, progress: Progress) -> None:
    from service.media.overlay.draw import write_overlay

    path.parent.mkdir(parents=True, exist_ok=True)
    bar = progress.add_task(path.name, total=1000)
    write_overlay(
        clip,
        path,
        frames=answer.frames,
        audio_track=answer.clip.audio.track if answer.clip.audio is not None else None,
        on_progress=lambda share: progress.update(bar, completed=round(1000 * share)),
    )


def _show(event: AnswerEvent, progress: Progress, bar: TaskID) -> None:
    if isinstance(event, ClipStarted):
        progress.update(bar, total=event.clip.num_samples, completed=0)
    elif isinstance(event, FrameMasks):
        progress.advance(bar)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Progress bars on stderr; none if stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress
