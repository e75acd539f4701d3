"""`avesformer segment`: write masks of clips as JSON and overlay video, computed here or by a running service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from service.cli.batch import BatchRecord, Summary, Targets, find_clips, plan_targets
from service.cli.option_flags import with_option_flags
from service.cli.output_files import FORMAT, write_answer
from service.cli.settings import complain, load_settings
from service.client.answer import Answer, AnswerGatherer
from service.domain.deadline import Deadline
from service.domain.errors import Kind, ServiceError
from service.domain.options import OPTIONS, RLE, SegmentOptions, parse_options
from service.domain.request import AnswerEvent, ClipStarted, RequestContext, accept_request_id
from service.domain.result import FrameMasks

if TYPE_CHECKING:
    from service.client.grpc_async import AsyncGrpcClient
    from service.client.rest import AsyncRestClient
    from service.media.spool import Spool
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


@with_option_flags((*OPTIONS, FORMAT, RLE))
def segment(
    clips: Annotated[
        list[Path], typer.Argument(help="MP4 or MOV files, folders of such files, or quoted patterns.", metavar="CLIP")
    ],
    output: Annotated[Path | None, typer.Option(help="File (a folder for several clips); - is stdout.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Overlay mp4 (a folder for several clips).")] = None,
    url: Annotated[str | None, typer.Option(help="URL of a running service (http, https, grpc, grpcs).")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="AVES_API_KEY", help="API key for --url; prefer the environment variable.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File or shipped name: lite, tiny, tiny-semantic (lite).")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip clips that an earlier run with --output did.")] = False,
    *,
    fields: dict[str, str],
) -> None:
    """Segment the sounding objects of CLIPs. Without --url the model runs in this process; the output is the same."""
    try:
        batch = _plan(clips, fields, output, overlay, checkpoint=checkpoint, url=url)
    except ServiceError as error:
        complain(error.detail)
        raise typer.Exit(2) from None
    if resume and batch.folder is None:
        complain("--resume needs a folder of results: several clips and --output or --overlay")
        raise typer.Exit(2)
    logging.getLogger().addHandler(logging.NullHandler())  # errors are printed as one line instead of log records
    answering = _remote(url, api_key) if url is not None else _local(checkpoint, device)
    raise typer.Exit(asyncio.run(_Segmenting(batch, is_resumed=resume).run(answering)))


@dataclass(frozen=True, slots=True)
class _Batch:
    """What to do. `folder` of the results is None for a single clip and for stdout."""

    targets: dict[Path, Targets]
    options: SegmentOptions
    form: str
    is_compressed: bool
    folder: Path | None
    record: BatchRecord


def _plan(
    arguments: list[Path],
    fields: dict[str, str],
    output: Path | None,
    overlay: Path | None,
    *,
    checkpoint: Path | None,
    url: str | None,
) -> _Batch:
    """Return what the arguments ask for; raises `bad_option`."""
    settings = {**fields, "checkpoint": str(checkpoint), "url": url}
    form = str(FORMAT.parse(fields.pop(FORMAT.name, "") or str(FORMAT.default)))
    rle = fields.pop(RLE.name, "")
    is_compressed = not rle or RLE.parse(rle) == RLE.default
    if not is_compressed and form in ("png", "polygons", "vtt", "srt"):
        raise ServiceError("bad_option", f"rle: the format {form} has no run lengths.")
    clips = find_clips(arguments)
    is_batch = len(clips) > 1 or any(argument.is_dir() for argument in arguments)
    targets = plan_targets(clips, output, overlay, form=form, is_batch=is_batch)
    folders = [folder for folder in (output, overlay) if folder is not None and str(folder) != "-"]
    folder = folders[0] if is_batch and folders else None
    record = BatchRecord(folder, settings)
    return _Batch(targets, parse_options(fields), form, is_compressed, folder, record)


class _Segmenting:
    """Segments the clips of a batch one after the other."""

    def __init__(self, batch: _Batch, *, is_resumed: bool) -> None:
        self._batch = batch
        self._is_resumed = is_resumed
        self._summary = Summary()

    async def run(self, answering: AsyncIterator[Answerer]) -> int:
        """Segment all clips; returns the exit code."""
        try:
            with _progress() as progress:
                loading = progress.add_task("loading the model", total=None)
                async with asynccontextmanager(lambda: answering)() as answerer:
                    progress.remove_task(loading)
                    for clip, target in self._batch.targets.items():
                        await self._take(answerer, clip, target, progress)
        except ServiceError as error:
            complain(error.detail)
            return 2 if error.kind is Kind.INVALID_REQUEST else 1
        except (OSError, ValueError) as error:  # unusable checkpoint or device; the message says why
            complain(str(error))
            return 1
        finally:
            if self._batch.folder is not None and self._summary.rows:
                self._summary.show()
        return 1 if self._summary.num_failed else 0

    async def _take(self, answerer: Answerer, clip: Path, target: Targets, progress: Progress) -> None:
        """Segment one clip and write its files. On failure print one line to stderr."""
        self._summary.start()
        try:
            if self._is_resumed and self._batch.record.has(clip, target):
                self._summary.skipped(clip)
                return
            answer = await self._segment(answerer, clip, target, progress)
            self._batch.record.add(clip)
            self._summary.done(clip, answer)
        except ServiceError as error:
            if error.kind is Kind.INVALID_REQUEST and error.code == "bad_option":
                raise
            complain(f"{clip}: {error.detail}")
            self._summary.failed(clip, error.code)
        except OSError as error:
            complain(f"{error.filename or clip}: {error.strerror or error}")
            self._summary.failed(clip, error.strerror or "failed")

    async def _segment(self, answerer: Answerer, clip: Path, target: Targets, progress: Progress) -> Answer:
        batch = self._batch
        bar = progress.add_task(clip.name, total=None)
        streamed: list[AnswerEvent] = []

        def take(event: AnswerEvent) -> None:
            _show(event, progress, bar)
            if isinstance(event, ClipStarted):  # the first event, also of a retry
                streamed.clear()
            streamed.append(event)

        answer = await answerer.answer(clip, batch.options, take)
        progress.update(bar, total=len(answer.frames), completed=len(answer.frames))
        if target.answer is not None:
            form, is_compressed = batch.form, batch.is_compressed
            write_answer(answer, target.answer, streamed=streamed, name=form, is_compressed=is_compressed)
        if target.overlay is not None:
            await asyncio.to_thread(_write_overlay, clip, target.overlay, answer, progress)
        return answer


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
    from service.media.spool import Spool
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
