"""Clips whose stream changes its parameter sets in the middle: the container and the first pictures tell less."""

from __future__ import annotations

import io
from fractions import Fraction

import av
from support.inputs.clips import ClipSpec, make_clip

_LENGTH_BYTES = 4
_FRAME_TICKS = 512
_TIME_BASE = Fraction(1, 25 * _FRAME_TICKS)


def lying_clip(small: bytes, large: bytes) -> bytes:
    """Return an MP4 (H.264 or HEVC) with the sample entry and the pictures of `small`, then the pictures of `large`.

    The parameter sets of `large` are in its first picture only, where a decoder takes them from and a look at the
    container does not see them.
    """
    sets, packets = _parts(large)
    out = io.BytesIO()
    with av.open(io.BytesIO(small)) as source, av.open(out, "w", format="mp4") as target:
        template = source.streams.video[0]
        stream = target.add_stream_from_template(template)
        sound = av.open(io.BytesIO(small)).streams.audio[0] if source.streams.audio else None
        sound_stream = None if sound is None else target.add_stream_from_template(sound)
        own = [(bytes(packet), packet.is_keyframe) for packet in source.demux(template) if packet.size]
        inserted = [(sets + data if number == 0 else data, is_key) for number, (data, is_key) in enumerate(packets)]
        for number, (data, is_key) in enumerate([*own, *inserted]):
            packet = av.Packet(data)
            packet.pts = packet.dts = number * _FRAME_TICKS
            packet.time_base, packet.stream, packet.is_keyframe = _TIME_BASE, stream, is_key
            target.mux(packet)
        if sound_stream is not None:
            with av.open(io.BytesIO(small)) as again:
                for packet in again.demux(again.streams.audio[0]):
                    if packet.size:
                        packet.stream = sound_stream
                        target.mux(packet)
    return out.getvalue()


def changing_clip(first: ClipSpec, then: ClipSpec) -> bytes:
    """Return an MP4 with the sample entry, pictures and sound of `first`, then the pictures of `then`."""
    out = io.BytesIO()
    small, large = make_clip(first), make_clip(then)
    with (
        av.open(io.BytesIO(small)) as source,
        av.open(io.BytesIO(small)) as heard,
        av.open(io.BytesIO(large)) as following,
        av.open(out, "w", format="mp4") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        sound = target.add_stream_from_template(heard.streams.audio[0])
        pictures = [*source.demux(source.streams.video[0]), *following.demux(following.streams.video[0])]
        for number, picture in enumerate(each for each in pictures if each.size):
            packet = av.Packet(bytes(picture))
            packet.pts = packet.dts = number * _FRAME_TICKS
            packet.duration = _FRAME_TICKS
            packet.time_base, packet.stream, packet.is_keyframe = _TIME_BASE, stream, picture.is_keyframe
            target.mux(packet)
        for packet in heard.demux(heard.streams.audio[0]):
            if packet.size:
                packet.stream = sound
                target.mux(packet)
    return out.getvalue()


def _parts(clip: bytes) -> tuple[bytes, list[tuple[bytes, bool]]]:
    """Parameter sets as length-prefixed NAL units, and the coded pictures."""
    with av.open(io.BytesIO(clip)) as source:
        stream = source.streams.video[0]
        config = stream.codec_context.extradata
        assert config is not None
        packets = [(bytes(packet), packet.is_keyframe) for packet in source.demux(stream) if packet.size]
    sets = _hevc_sets_of(config) if stream.codec_context.name == "hevc" else _sets_of(config)
    return sets, packets


def _sets_of(config: bytes) -> bytes:
    """The sets of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1)."""
    found, at = b"", 5
    for mask in (31, 255):
        count, at = config[at] & mask, at + 1
        for _ in range(count):
            size = int.from_bytes(config[at : at + 2], "big")
            found += size.to_bytes(_LENGTH_BYTES, "big") + config[at + 2 : at + 2 + size]
            at += 2 + size
    return found


def _hevc_sets_of(config: bytes) -> bytes:
    """The sets of a HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 8.3.3.1)."""
    found, at = b"", 23
    for _ in range(config[22]):
        count, at = int.from_bytes(config[at + 1 : at + 3], "big"), at + 3
        for _ in range(count):
            size = int.from_bytes(config[at : at + 2], "big")
            found += size.to_bytes(_LENGTH_BYTES, "big") + config[at + 2 : at + 2 + size]
            at += 2 + size
    return found


def small_clip() -> bytes:
    """What the container tells: 320x240, one reference."""
    return make_clip(width=320, height=240, num_frames=10, b_frames=0, codec_options={"refs": "1"})
