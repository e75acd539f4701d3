"""From an upload to blocks of samples in one process. Decoder children run it; benchmarks can run it directly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from service.domain.chunk import SampleBlock
from service.domain.clip import ClipInfo
from service.domain.errors import ServiceError
from service.media.policy import PICTURE_DECODERS, SOUND_DECODERS, DecodeJob
from service.media.sandbox.container.aperture import Aperture
from service.media.sandbox.decoding import picture, sound
from service.media.sandbox.decoding.packets import PacketList, Plan, list_packets, make_plan
from service.media.sandbox.decoding.sample_writer import Outbox, SampleWriter
from service.media.sandbox.decoding.sampling import (
    MissingFrameError,
    StreamChooser,
    TableChooser,
    assign,
    times_before,
)
from service.media.sandbox.decoding.timeline import EndClaims, end_of_picture, origin_of, start_of
from service.media.sandbox.source import UploadSource


@dataclass(frozen=True, slots=True)
class Tracks:
    """The tracks to decode.

    Attributes:
        picture, sound: track ids; None decodes the first track of the kind.
        sound_index: place of the sound track among all sound tracks.
        language: language of the sound track, ISO 639-2.
        media_s, edit_s: length of the picture by its media header and by its edit list, seconds; 0 if unknown.
        sound_s: returns the length of the sound by its sample tables, as far as the upload has been read.
        sound_edit_s: end of the sound by its edit list, seconds; 0 where untold.
        aperture: the part of the picture that is shown; None for all of it.
        is_fragmented: whether fragments may follow the index, which then does not list all samples.
    """

    picture: int | None = None
    sound: int | None = None
    sound_index: int = 0
    language: str | None = None
    media_s: float = 0.0
    edit_s: float = 0.0
    sound_s: Callable[[], float] = lambda: 0.0
    sound_edit_s: float = 0.0
    aperture: Aperture | None = None
    is_fragmented: bool = True


@dataclass(frozen=True, slots=True)
class _Picture:
    """The picture track: its container and stream, the tick that becomes time 0, and other claims about its end."""

    container: InputContainer
    stream: VideoStream
    origin_ticks: int
    claims: Callable[[], EndClaims]


def decode_clip(job: DecodeJob, source: UploadSource, outbox: Outbox, *, tracks: Tracks | None = None) -> ClipInfo:
    """Decode an upload into samples.

    Args:
        job: what to decode.
        source: the bytes. A growing upload whose index comes first is decoded while it grows.
        outbox: receives the clip and its blocks.
        tracks: the tracks to decode.

    Returns:
        The clip with all facts that are known at its end.

    Raises:
        ServiceError: any documented reason why a file cannot be decoded.
    """
    tracks = tracks or Tracks()
    try:
        with ExitStack() as stack:
            heard = stack.enter_context(source.open_container(job.policy, decoders=SOUND_DECODERS))
            is_known = picture.is_depth_known(heard, track_id=tracks.picture, is_fragmented=tracks.is_fragmented)
            tried = () if is_known else PICTURE_DECODERS
            container = stack.enter_context(source.open_container(job.policy, decoders=tried))
            stream = picture.open_picture(container, job.policy, track_id=tracks.picture)
            sound_stream = sound.open_sound(heard, track_id=tracks.sound)
            audio = sound.describe(sound_stream, track=tracks.sound_index, language=tracks.language)
            shown, origin_s = _on_time_line(container, stream, sound_stream, tracks)
            sound_track = sound.SoundTrack(heard, sound_stream, origin_s=origin_s)
            writer = SampleWriter(job, stream, sound_track, outbox, audio=audio, aperture=tracks.aperture)
            if source.is_complete:
                _decode_complete(job, shown, writer)
            else:
                _decode_growing(job, shown, writer)
            source.check()
            return writer.end()
    except MemoryError:  # first, because PyAV's own is an FFmpegError too
        raise ServiceError("too_costly", "The clip needs more memory to decode than a decoder has.") from None
    except av.FFmpegError as error:
        source.check()
        raise _translate(error) from error


def _on_time_line(
    container: InputContainer, stream: VideoStream, sound_stream: AudioStream, tracks: Tracks
) -> tuple[_Picture, float]:
    """Place both tracks on one time line. Return the picture and the timestamp that becomes time 0, in seconds."""
    assert stream.time_base is not None
    tick = Fraction(stream.time_base)
    starts = [start_of(each.start_time, each.time_base) for each in (stream, sound_stream)]
    origin = origin_of(*starts, tick=tick)
    picture_s, sound_s = (float((start or origin) - origin) for start in starts)

    def claims() -> EndClaims:
        heard_s = tracks.sound_s()
        sound_edit_s = tracks.sound_edit_s - float(origin) if tracks.sound_edit_s else math.inf
        return EndClaims(
            media_s=picture_s + tracks.media_s if tracks.media_s else None,
            sound_s=min(sound_s + heard_s, sound_edit_s) if heard_s else None,
            edit_s=tracks.edit_s - float(origin) if tracks.edit_s else None,
        )

    return _Picture(container, stream, int(origin / tick), claims), float(origin)


def _decode_complete(job: DecodeJob, shown: _Picture, writer: SampleWriter) -> None:
    """Plan in one pass without decoding, then decode what the plan needs. If the plan fails, decode all."""
    container, stream = shown.container, shown.stream
    packets = list_packets(container, stream, origin_ticks=shown.origin_ticks, on_progress=writer.tick)
    table = packets.table(shown.claims())
    if table is None:
        _rewind(container, stream, packets)
        _decode_growing(job, shown, writer)
        return
    wanted = assign(table, job)
    writer.set_clip(duration_s=table.end_s, num_samples=len(wanted.times_s))
    writer.hear(times_before(table, job).tolist())
    index_of = {int(pts): row for row, pts in enumerate(table.pts)}
    num_done = 0
    plans = (None,) if packets.is_in_decoding_order else (make_plan(packets, table, wanted.rows), None)
    for plan in plans:
        _rewind(container, stream, packets)
        decoder = _decoder(job, shown, writer, plan=plan, index_of=index_of)
        chooser: TableChooser[VideoFrame] = TableChooser(table, wanted, is_strict=plan is not None, num_done=num_done)
        try:
            _run_table(decoder, chooser, writer)
            return
        except MissingFrameError:
            num_done = chooser.num_done


def _decoder(
    job: DecodeJob,
    track: _Picture,
    writer: SampleWriter,
    *,
    plan: Plan | None = None,
    index_of: dict[int, int] | None = None,
) -> picture.PictureDecoder:
    return picture.PictureDecoder(
        track.container,
        track.stream,
        job.policy,
        plan=plan,
        index_of=index_of,
        origin_ticks=track.origin_ticks,
        on_progress=writer.tick,
    )


def _run_table(decoder: picture.PictureDecoder, chooser: TableChooser[VideoFrame], writer: SampleWriter) -> None:
    for shown in decoder.frames():
        for time_s, chosen in chooser.feed(shown):
            writer.add(time_s, chosen)
        if chooser.is_done:
            return
    for time_s, chosen in chooser.finish():
        writer.add(time_s, chosen)
    decoder.check_any()


def _decode_growing(job: DecodeJob, track: _Picture, writer: SampleWriter) -> None:
    """Decode every frame; choose each when its successor is known."""
    decoder = _decoder(job, track, writer)
    assert track.stream.time_base is not None
    chooser: StreamChooser[VideoFrame] = StreamChooser(job, track.stream.time_base)
    before = _before_range(job, track.stream.time_base)
    last_s = 0.0
    for shown in decoder.frames():
        last_s = shown.timestamp_s
        if before is not None and not before.is_done:
            writer.hear(time_s for time_s, _ in before.feed(shown))
        for time_s, chosen in chooser.feed(shown):
            writer.add(time_s, chosen)
        if chooser.is_done:
            break
    decoder.check_any()
    end_s = end_of_picture(last_s, decoder.last_duration_s, spacing_s=decoder.mean_spacing_s, claims=track.claims())
    if not chooser.is_done:
        writer.set_clip(duration_s=end_s)
    for time_s, chosen in chooser.finish(end_s):
        writer.add(time_s, chosen)


def _before_range(job: DecodeJob, time_base: Fraction) -> StreamChooser[VideoFrame] | None:
    """Return a chooser of the samples from `heard_from_s` up to the range; None where there are none."""
    if job.heard_from_s is None or job.heard_from_s >= job.start_s:
        return None
    return StreamChooser(replace(job, start_s=job.heard_from_s, end_s=job.start_s), time_base)


def _rewind(container: InputContainer, stream: VideoStream, packets: PacketList) -> None:
    """Return to the first packet with an empty decoder."""
    first = [pts for pts in packets.pts[:1] if pts is not None]
    container.seek(min([0, *first, *(pts for pts in packets.pts if pts is not None)]), stream=stream)
    stream.codec_context.skip_frame = "DEFAULT"


def _translate(error: av.FFmpegError) -> ServiceError:
    if "exceeds specified max pixel count" in str(error.log):
        return ServiceError("picture_too_large", "The coded pictures are larger than the limit; scale the clip down.")
    return ServiceError("broken", "The file is damaged: its index or media cannot be read. Export the clip again.")


def samples_of(job: DecodeJob, source: UploadSource, tracks: Tracks) -> Iterator[SampleBlock]:
    """Return all blocks of a complete upload, decoded in this process. For benchmarks and trusted files."""
    outbox = _ListOutbox()
    decode_clip(job, source, outbox, tracks=tracks)
    yield from outbox.blocks


class _ListOutbox:
    def __init__(self) -> None:
        self.blocks: list[SampleBlock] = []

    def clip(self, clip: ClipInfo) -> None:
        """Do nothing."""

    def block(self, block: SampleBlock) -> None:
        """Store the block."""
        self.blocks.append(block)

    def progress(self) -> None:
        """Do nothing."""
