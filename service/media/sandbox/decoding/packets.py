"""The packets of the picture track, read before decoding: the frames, and which packets a request needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from av.container.input import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from service.media.sandbox.decoding.sampling import FrameTable
from service.media.sandbox.decoding.timeline import EndClaims, end_of_picture

_H264_IDR = 5
_H264_PICTURES = range(1, 6)
_HEVC_IDR = (19, 20)
# NAL unit types: ITU-T H.264 table 7-1, H.265 table 7-1.
_HEVC_PICTURES = range(32)


@dataclass(slots=True)
class PacketList:
    """The picture packets in decoding order, one entry each.

    An entry has ticks (None: unknown), duration in ticks, whether FFmpeg will drop its frame (edit list), and whether
    decoding may start there without any earlier packet.

    `is_in_decoding_order`: the file has no presentation times of its reordered frames (B-frames without `ctts`); the
    ticks belong to the frames in the order in which they leave the decoder.
    """

    time_base: Fraction
    is_in_decoding_order: bool = False
    pts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    is_dropped: list[bool] = field(default_factory=list)
    is_start: list[bool] = field(default_factory=list)

    def table(self, claims: EndClaims) -> FrameTable | None:
        """Return the frames that will be shown; None if there are none or their times are unknown or repeat.

        Args:
            claims: where other parts of the file say that the picture ends.
        """
        shown = [(pts, row) for row, pts in enumerate(self.pts) if not self.is_dropped[row]]
        if not shown or any(pts is None for pts, _ in shown):
            return None
        ordered = sorted((pts, row) for pts, row in shown if pts is not None)
        pts = np.array([tick for tick, _ in ordered], dtype=np.int64)
        if (np.diff(pts) <= 0).any():
            return None
        last_row = ordered[-1][1]
        base = float(self.time_base)
        spacing_s = float(np.median(np.diff(pts))) * base if len(pts) > 1 else 0.0
        last_s = self.durations[last_row] * base
        end_s = end_of_picture(float(pts[-1]) * base, last_s, spacing_s=spacing_s, claims=claims)
        return FrameTable(pts=pts, time_base=self.time_base, end_s=end_s)


@dataclass(frozen=True, slots=True)
class Plan:
    """Per packet in decoding order, bool (N,): whether to decode it, and whether its frame is wanted."""

    needed: NDArray[np.bool_]
    wanted: NDArray[np.bool_]

    @property
    def last(self) -> int:
        """Return the last packet that is needed."""
        return int(np.flatnonzero(self.needed)[-1])


def list_packets(
    container: InputContainer, stream: VideoStream, *, origin_ticks: int, on_progress: Callable[[], None]
) -> PacketList:
    """Read the picture track once without decoding; `origin_ticks` is the tick that becomes time 0."""
    assert stream.time_base is not None
    packets = PacketList(time_base=Fraction(stream.time_base))
    starts = _start_test(stream)
    has_offsets = False
    for packet in container.demux(stream):
        if packet.size == 0 and packet.dts is None:
            continue  # the flush packet that ends the generator
        packets.pts.append(None if packet.pts is None else packet.pts - origin_ticks)
        has_offsets |= packet.pts != packet.dts
        packets.durations.append(packet.duration or 0)
        packets.is_dropped.append(packet.is_discard)
        packets.is_start.append(packet.is_keyframe and starts(packet))
        on_progress()
    packets.is_in_decoding_order = stream.codec_context.has_b_frames and not has_offsets
    return packets


def make_plan(packets: PacketList, table: FrameTable, rows: NDArray[np.int64]) -> Plan:
    """Return the packets from the start of each wanted frame's group of pictures up to that frame, in decoding order.

    Args:
        packets: every packet of the track.
        table: its frames.
        rows: int64 (N,), the wanted rows of the table.
    """
    num = len(packets.pts)
    place = {pts: at for at, pts in enumerate(packets.pts) if not packets.is_dropped[at]}
    wanted_at = np.unique([place[int(pts)] for pts in table.pts[np.unique(rows)]])
    starts = np.flatnonzero(packets.is_start)
    if not len(starts) or starts[0] != 0:
        starts = np.concatenate([[0], starts])
    group = np.searchsorted(starts, wanted_at, side="right") - 1
    pts = np.array([np.iinfo(np.int64).min if tick is None else tick for tick in packets.pts], dtype=np.int64)
    leads = (
        pts[wanted_at] < pts[starts[group]]
    )  # shown before its group's first picture, so it may depend on the group before
    begin = starts[np.maximum(group - leads, 0)]
    edges = np.zeros(num + 1, dtype=np.int64)
    np.add.at(edges, begin, 1)
    np.add.at(edges, wanted_at + 1, -1)
    wanted = np.zeros(num, dtype=np.bool_)
    wanted[wanted_at] = True
    return Plan(needed=np.cumsum(edges)[:-1] > 0, wanted=wanted)


def _start_test(stream: VideoStream) -> Callable[[Packet[VideoStream]], bool]:
    """Return a test for key packets that need nothing before them. In H.264 and HEVC only an IDR is sure to."""
    extra = stream.codec_context.extradata or b""
    name = stream.codec_context.name
    if name == "h264" and len(extra) > 6 and extra[0] == 1:
        length_size = (extra[4] & 3) + 1
        return lambda packet: _first_picture_type(packet, length_size, shift=0, mask=31) == _H264_IDR
    if name == "hevc" and len(extra) > 22:
        length_size = (extra[21] & 3) + 1
        return lambda packet: _first_picture_type(packet, length_size, shift=1, mask=63) in _HEVC_IDR
    if name in ("h264", "hevc"):
        return lambda packet: False
    return lambda packet: True


def _first_picture_type(packet: Packet[VideoStream], length_size: int, *, shift: int, mask: int) -> int | None:
    """Return the NAL unit type of the first coded picture in a packet of length-prefixed units."""
    data = memoryview(bytes(packet))
    pictures = _HEVC_PICTURES if shift else _H264_PICTURES
    at = 0
    while at + length_size < len(data):
        kind = (data[at + length_size] >> shift) & mask
        if kind in pictures:
            return kind
        at += length_size + int.from_bytes(data[at : at + length_size], "big")
    return None
