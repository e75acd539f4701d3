"""Long real MP4 files, made quickly: one encoded piece, repeated by moving its packets along the time line."""

from __future__ import annotations

import io
from pathlib import Path

import av
from support.inputs.clips import ClipSpec, make_clip


def write_long_clip(path: Path, *, piece: ClipSpec, num_pieces: int) -> None:
    """Write `num_pieces` of `piece` one after the other; the piece begins with a key frame and has no B-frames."""
    encoded = make_clip(piece)
    with av.open(str(path), "w", format="mp4") as target:
        streams: dict[str, av.stream.Stream] = {}
        for number in range(num_pieces):
            with av.open(io.BytesIO(encoded)) as source:
                for stream in (source.streams.video[0], source.streams.audio[0]):
                    if stream.type not in streams:
                        streams[stream.type] = target.add_stream_from_template(stream)
                _append(target, source, streams, number * piece.duration_s)


def _append(
    target: av.container.OutputContainer,
    source: av.container.InputContainer,
    streams: dict[str, av.stream.Stream],
    offset_s: float,
) -> None:
    for packet in source.demux():
        if packet.dts is None or packet.time_base is None or packet.dts < 0:
            continue
        shift = round(offset_s / packet.time_base)
        if packet.stream.type == "audio" and packet.dts * packet.time_base >= source.duration / av.time_base - 0.03:
            continue
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        packet.stream = streams[packet.stream.type]
        target.mux(packet)
