"""From an upload to blocks of samples, in one process: what a decoder child runs; a bench may run it without one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import av
from av.container.input import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.media.policy import DecodeJob
from service.media.sandbox import picture, sound
from service.media.sandbox.delivery import Delivery, Outbox
from service.media.sandbox.packets import PacketList, list_packets, make_plan
from service.media.sandbox.sampling import (
    MissingFrameError,
    StreamChooser,
    TableChooser,
    assign,
    clamp_last_s,
)
from service.media.sandbox.source import UploadSource


@dataclass(frozen=True, slots=True)
class Tracks:
    """The tracks to decode.

    Attributes:
        picture, sound: track ids; None decodes the first track of the kind.
        sound_index: place of the sound track among all sound tracks.
        language: of the sound track, ISO 639-2.
    """

    picture: int | None = None
    sound: int | None = None
    sound_index: int = 0
    language: str | None = None


def decode_clip(job: DecodeJob, source: UploadSource, outbox: Outbox, *, tracks: Tracks | None = None) -> ClipInfo:
    """Decode an upload into samples.

    Args:
        job: what is wanted.
        source: the bytes; a growing upload whose index comes first is decoded while it grows.
        outbox: takes the clip and its blocks.
        tracks: what to decode.

    Returns:
        The clip with all that is known at its end.

    Raises:
        ServiceError: every documented reason why a file does not decode.
    """
    tracks = tracks or Tracks()
    try:
        with ExitStack() as stack:
            container = stack.enter_context(source.open_container(job.policy))
            stream = picture.open_picture(container, job.policy, track_id=tracks.picture)
            heard = stack.enter_context(source.open_container(job.policy))
            sound_stream = sound.open_sound(heard, track_id=tracks.sound)
            audio = sound.describe(sound_stream, track=tracks.sound_index, language=tracks.language)
            delivery = Delivery(job, stream, sound.SoundTrack(heard, sound_stream), outbox, audio=audio)
            if source.is_complete:
                _decode_complete(job, container, stream, delivery)
            else:
                _decode_growing(job, container, stream, delivery)
            source.check()
            return delivery.end()
    except av.FFmpegError as error:
        source.check()
        raise _translate(error) from error
    except MemoryError:
        raise ServiceError("too_costly", "The clip needs more memory to decode than a decoder has.") from None


def _decode_complete(job: DecodeJob, container: InputContainer, stream: VideoStream, delivery: Delivery) -> None:
    """Plan (one pass without decoding), then decode what the plan needs; the plain loop where it does not hold."""
    packets = list_packets(container, stream, on_progress=delivery.tick)
    table = packets.table()
    if table is None:
        _rewind(container, stream, packets)
        _decode_growing(job, container, stream, delivery)
        return
    wanted = assign(table, job)
    delivery.know(duration_s=table.end_s, num_samples=len(wanted.times_s))
    index_of = {int(pts): row for row, pts in enumerate(table.pts)}
    num_done = 0
    for plan in (make_plan(packets, table, wanted.rows), None):
        _rewind(container, stream, packets)
        decoder = picture.PictureDecoder(
            container, stream, job.policy, plan=plan, index_of=index_of, on_progress=delivery.tick
        )
        chooser: TableChooser[VideoFrame] = TableChooser(table, wanted, is_strict=plan is not None, num_done=num_done)
        try:
            _run_table(decoder, chooser, delivery)
            return
        except MissingFrameError:
            num_done = chooser.num_done


def _run_table(decoder: picture.PictureDecoder, chooser: TableChooser[VideoFrame], delivery: Delivery) -> None:
    for shown in decoder.frames():
        for time_s, chosen in chooser.feed(shown):
            delivery.add(time_s, chosen)
        if chooser.is_done:
            return
    for time_s, chosen in chooser.finish():
        delivery.add(time_s, chosen)
    decoder.check_any()


def _decode_growing(job: DecodeJob, container: InputContainer, stream: VideoStream, delivery: Delivery) -> None:
    """The plain loop: every frame, each chosen when its successor is known."""
    decoder = picture.PictureDecoder(container, stream, job.policy, plan=None, index_of=None, on_progress=delivery.tick)
    assert stream.time_base is not None
    chooser: StreamChooser[VideoFrame] = StreamChooser(job, stream.time_base)
    last_s = 0.0
    for shown in decoder.frames():
        last_s = shown.timestamp_s
        for time_s, chosen in chooser.feed(shown):
            delivery.add(time_s, chosen)
        if chooser.is_done:
            break
    decoder.check_any()
    end_s = last_s + clamp_last_s(decoder.last_duration_s, spacing_s=decoder.mean_spacing_s)
    if not chooser.is_done:
        delivery.know(duration_s=end_s)
    for time_s, chosen in chooser.finish(end_s):
        delivery.add(time_s, chosen)


def _rewind(container: InputContainer, stream: VideoStream, packets: PacketList) -> None:
    """Back to the first packet, with an empty decoder."""
    first = [pts for pts in packets.pts[:1] if pts is not None]
    container.seek(min([0, *first, *(pts for pts in packets.pts if pts is not None)]), stream=stream)
    stream.codec_context.skip_frame = "DEFAULT"


def _translate(error: av.FFmpegError) -> ServiceError:
    if "exceeds specified max pixel count" in str(error.log):
        return ServiceError("picture_too_large", "The coded pictures are larger than the limit; scale the clip down.")
    return ServiceError("broken", "The file is damaged: its index or media cannot be read. Export the clip again.")


def samples_of(job: DecodeJob, source: UploadSource) -> Iterator[SampleBlock]:
    """All blocks of a complete upload, decoded in this process: for benches and trusted files of our own making."""
    outbox = _ListOutbox()
    decode_clip(job, source, outbox)
    yield from outbox.blocks


class _ListOutbox:
    def __init__(self) -> None:
        self.blocks: list[SampleBlock] = []

    def clip(self, clip: ClipInfo) -> None:
        """Not needed here."""

    def block(self, block: SampleBlock) -> None:
        """Keep it."""
        self.blocks.append(block)

    def progress(self) -> None:
        """Not needed here."""
