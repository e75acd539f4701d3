"""The clip that an overlay is drawn on: the tracks, the time line and the part of the picture of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.domain.errors import ServiceError
from service.media.policy import MediaPolicy
from service.media.sandbox.container.aperture import Aperture
from service.media.sandbox.container.clip_index import ClipIndex
from service.media.sandbox.container.prescan import Scanner
from service.media.sandbox.decoding.picture import PictureDecoder
from service.media.sandbox.decoding.sampling import Shown
from service.media.sandbox.decoding.timeline import origin_of, start_of
from service.media.sandbox.source import UploadSource

_ENVELOPE_RATE_HZ = 8_000
# 10 ms at 8 kHz: finer than the strip can show.
_ENVELOPE_BIN = 80
# The strip is scaled to the clip's loudest moment, but not so far that noise in a silent clip fills it.
_QUIET_PEAK = 0.05
# A tick of a picture track that tells none, seconds.
_USUAL_TICK = Fraction(1, 90_000)
SoundPacket: TypeAlias = "av.Packet[Any]"
OpenContainer: TypeAlias = Callable[[], InputContainer]
"""Opens the clip once more, from its beginning."""


@dataclass(frozen=True, slots=True)
class OverlaySource:
    """The tracks that the answer is about, each read through a container of its own.

    Attributes:
        open_container: opens the clip once more.
        policy: limits of the picture.
        picture: the picture track.
        sound: the sound track; None in a clip without sound.
        origin: the timestamp of the file that is time 0 of the answer, seconds.
        aperture: the part of the coded picture that is shown; None for all of it.
    """

    open_container: OpenContainer
    policy: MediaPolicy
    picture: VideoStream
    sound: AudioStream | None
    origin: Fraction
    aperture: Aperture | None

    @classmethod
    def of_file(cls, path: Path, stack: ExitStack, *, audio_track: int | None) -> OverlaySource:
        """Open a user's own file, without the limits of a service; see `open`."""
        index = _index_of(path, audio_track)
        policy = MediaPolicy(max_pixels=2**31 - 1)
        return cls.open(lambda: av.open(str(path)), stack, index=index, policy=policy)

    @classmethod
    def open(
        cls, open_container: OpenContainer, stack: ExitStack, *, index: ClipIndex | None, policy: MediaPolicy
    ) -> OverlaySource:
        """Open a clip; `stack` closes it. The tracks are those that the service decodes, else the first ones.

        Args:
            open_container: opens the clip; called three times.
            stack: closes the containers.
            index: what the service reads of the file's index; None where it would not answer for the file.
            policy: limits of the picture.

        Raises:
            ServiceError: `no_video`.
            av.FFmpegError: FFmpeg cannot read the file.
        """
        pictures = stack.enter_context(open_container())
        sounds = stack.enter_context(open_container())
        picture = _chosen(list(pictures.streams.video), None if index is None else index.picture.track_id)
        sound = _chosen(list(sounds.streams.audio), None if index is None else index.sound.track_id)
        if picture is None:
            raise ServiceError("no_video", "The clip has no picture track.")
        origin = Fraction(0)
        if sound is not None:
            starts = [start_of(stream.start_time, stream.time_base) for stream in (picture, sound)]
            origin = origin_of(*starts, tick=Fraction(picture.time_base or _USUAL_TICK))
        aperture = None if index is None else index.picture.aperture
        return cls(open_container, policy, picture, sound, origin, aperture)

    @property
    def tick(self) -> Fraction:
        """Seconds of a tick of the picture track."""
        return Fraction(self.picture.time_base or _USUAL_TICK)

    @property
    def duration_s(self) -> float:
        """Length of the picture track by its index, seconds, above 0."""
        if self.picture.duration:
            end_s = float(self.picture.duration * self.tick - self.origin)
        else:
            end_s = (_container_of(self.picture).duration or 0) / av.time_base - float(self.origin)
        return max(end_s, 1e-3)

    def frames(self) -> Iterator[Shown[VideoFrame]]:
        """Yield every frame that the service would show, with its ticks and seconds on the answer's time line."""
        self.picture.thread_type = "AUTO"
        yield from PictureDecoder(
            _container_of(self.picture),
            self.picture,
            self.policy,
            plan=None,
            index_of=None,
            origin_ticks=int(self.origin / self.tick),
            on_progress=lambda: None,
        ).frames()

    def sound_packets(self) -> Iterator[SoundPacket]:
        """Yield the packets of the sound track with their ticks on the answer's time line."""
        if self.sound is None:
            return
        origin_ticks = round(self.origin / Fraction(self.sound.time_base or 1))
        for packet in _container_of(self.sound).demux(self.sound):
            if packet.pts is not None:
                packet.pts -= origin_ticks
            if packet.dts is not None:
                packet.dts -= origin_ticks
            yield packet

    def sound_envelope(self) -> NDArray[np.float32]:
        """Return the peaks of the sound in [0, 1], one per 10 ms, scaled to the loudest; empty without sound."""
        if self.sound is None:
            return np.zeros(0, np.float32)
        with self.open_container() as clip:
            stream = clip.streams[self.sound.index]
            assert isinstance(stream, AudioStream)
            peaks = list(_peaks(clip, stream))
        if not peaks:
            return np.zeros(0, np.float32)
        envelope = np.concatenate(peaks)
        scaled: NDArray[np.float32] = envelope / max(float(envelope.max(initial=0.0)), _QUIET_PEAK)
        return scaled


def _index_of(path: Path, audio_track: int | None) -> ClipIndex | None:
    """Return the service's view of the file's index; None for a file that the service would refuse."""
    with path.open("rb") as file:
        size = path.stat().st_size
        source = UploadSource(file.fileno(), size_bytes=size, is_complete=True, need=lambda _: (size, True))
        try:
            return Scanner(source, MediaPolicy(), audio_track=audio_track).head()
        except ServiceError:
            return None


def _container_of(stream: VideoStream | AudioStream) -> InputContainer:
    container = stream.container
    assert isinstance(container, InputContainer)
    return container


def _chosen(streams: list[Any], track_id: int | None) -> Any:
    """Return the stream with this track id, else the first that is not cover art; None without any."""
    moving = [each for each in streams if not each.disposition & av.stream.Disposition.attached_pic]
    return next((each for each in moving if each.id == track_id), next(iter(moving), None))


def _peaks(clip: InputContainer, stream: AudioStream) -> Iterator[NDArray[np.float32]]:
    resampler = AudioResampler(format="s16", layout="mono", rate=_ENVELOPE_RATE_HZ)
    rest = np.zeros(0, np.int16)
    for frame in clip.decode(stream):
        for part in resampler.resample(frame):
            rest = np.concatenate([rest, part.to_ndarray().reshape(-1)])
        whole = len(rest) // _ENVELOPE_BIN * _ENVELOPE_BIN
        bins = np.abs(rest[:whole].astype(np.float32)).reshape(-1, _ENVELOPE_BIN)
        yield bins.max(axis=1) / np.float32(32768.0)
        rest = rest[whole:]
