"""Picture formats from a sample entry: coded size, bit depth, chroma, reference pictures.

Parses the parameter sets of H.264 (ITU-T H.264 7.3.2.1.1) and HEVC (ITU-T H.265 7.3.2.2) as far as needed to estimate
the memory of a decoder. A part that cannot be parsed is replaced by the largest usual value of the codec.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from service.media.policy import PICTURE_TAGS

# Sample entry fields before the first box (ISO/IEC 14496-12 8.5.2, VisualSampleEntry).
_ENTRY_HEAD_BYTES = 86
_MAX_REFERENCES = 16
# Reference slots by specification: VP9 and AV1 have 8; MPEG-4, H.263 and VP8 at most 3.
_REFERENCES = {"h264": 16, "hevc": 16, "vp9": 8, "av1": 8}
_FEW_REFERENCES = 3
# Samples per pixel by chroma_format_idc. FFmpeg decodes some monochrome streams to 4:2:0.
_SAMPLES_PER_PIXEL = (1.5, 1.5, 2.0, 3.0)
_H264_PROFILES_WITH_CHROMA = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_HEVC_SPS = 33
# Parameter sets take some hundred bytes; later bytes are not read.
MAX_ENTRY_BYTES = 8192


@dataclass(frozen=True, slots=True)
class PictureFormat:
    """The facts that determine the memory of a decoder.

    Attributes:
        width, height: coded size, pixels.
        bytes_per_pixel: bytes of a decoded picture, all planes.
        num_references: pictures that the decoder may have to keep.
    """

    width: int
    height: int
    bytes_per_pixel: float
    num_references: int

    @property
    def picture_bytes(self) -> float:
        """Return the bytes of one decoded picture."""
        return self.width * self.height * self.bytes_per_pixel


def read_format(entry: bytes) -> PictureFormat:
    """Return the format of a picture track's sample entry; never fails.

    Args:
        entry: the entry with its box header, at most the first `MAX_ENTRY_BYTES`.
    """
    codec = PICTURE_TAGS.get(entry[4:8].decode("latin-1"), "")
    width, height = int.from_bytes(entry[32:34], "big"), int.from_bytes(entry[34:36], "big")
    guess = PictureFormat(width, height, _usual_bytes_per_pixel(codec), _REFERENCES.get(codec, _FEW_REFERENCES))
    boxes = dict(entry_boxes(entry))
    try:
        if "avcC" in boxes:
            return _larger(guess, [_read_h264_sps(sps) for sps in _avc_sets(boxes["avcC"])])
        if "hvcC" in boxes:
            return _larger(guess, [_read_hevc_sps(sps) for sps in _hevc_sets(boxes["hvcC"])])
        if "av1C" in boxes:
            return _with_chroma(guess, *_av1_chroma(boxes["av1C"]))
        if "vpcC" in boxes:
            return _with_chroma(guess, *_vp9_chroma(boxes["vpcC"]))
    except (IndexError, ValueError):
        pass
    return guess


def _usual_bytes_per_pixel(codec: str) -> float:
    """Return the bytes per pixel of 4:2:0, with 10 bits if the codec's usual profiles have them."""
    return 3.0 if codec in _REFERENCES else 1.5


def _larger(guess: PictureFormat, found: list[PictureFormat]) -> PictureFormat:
    """Return the largest values of the parameter sets, and at least the sample entry's size."""
    if not found:
        return guess
    return PictureFormat(
        width=max(guess.width, *(each.width for each in found)),
        height=max(guess.height, *(each.height for each in found)),
        bytes_per_pixel=max(each.bytes_per_pixel for each in found),
        num_references=min(_MAX_REFERENCES, max(each.num_references for each in found)),
    )


def _with_chroma(guess: PictureFormat, chroma: int, bits: int) -> PictureFormat:
    return PictureFormat(guess.width, guess.height, _bytes_per_pixel(chroma, bits), guess.num_references)


def _bytes_per_pixel(chroma: int, bits: int) -> float:
    return _SAMPLES_PER_PIXEL[chroma] * (1 if bits <= 8 else 2)


def entry_boxes(entry: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield kind and body of each box in a visual sample entry."""
    body, at = entry[_ENTRY_HEAD_BYTES:], 0
    while at + 8 <= len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        if size < 8 or at + size > len(body):
            return
        yield body[at + 4 : at + 8].decode("latin-1"), body[at + 8 : at + size]
        at += size


def _avc_sets(config: bytes) -> list[bytes]:
    """Return the sequence parameter sets of an AVCDecoderConfigurationRecord, without their NAL header."""
    at = 6
    found: list[bytes] = []
    for _ in range(config[5] & 31):
        size = int.from_bytes(config[at : at + 2], "big")
        found.append(_unescape(config[at + 3 : at + 2 + size]))
        at += 2 + size
    return found


def _hevc_sets(config: bytes) -> list[bytes]:
    """Return the sequence parameter sets of an HEVCDecoderConfigurationRecord, without their NAL header."""
    at = 23
    found: list[bytes] = []
    for _ in range(config[22]):
        kind, count = config[at] & 63, int.from_bytes(config[at + 1 : at + 3], "big")
        at += 3
        for _ in range(count):
            if at >= len(config):
                return found
            size = int.from_bytes(config[at : at + 2], "big")
            if kind == _HEVC_SPS:
                found.append(_unescape(config[at + 4 : at + 2 + size]))
            at += 2 + size
    return found


def _av1_chroma(config: bytes) -> tuple[int, int]:
    """Return chroma format and bit depth of an AV1CodecConfigurationRecord (AV1 in ISOBMFF 2.3.3)."""
    flags = config[2]
    chroma = 3 if not flags & 0x08 else (1 if flags & 0x04 else 2)
    return chroma, 10 if flags & 0x40 else 8


def _vp9_chroma(config: bytes) -> tuple[int, int]:
    """Return chroma format and bit depth of a VPCodecConfigurationRecord (VP in ISOBMFF), after version and flags."""
    subsampling = config[6] >> 1 & 7
    return (1, 1, 2, 3)[min(subsampling, 3)], config[6] >> 4


def _unescape(nal: bytes) -> bytes:
    return nal.replace(b"\0\0\3", b"\0\0")


class _Bits:
    """Reads bits and Exp-Golomb numbers; raises IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, num: int) -> int:
        """Return the next bits as a number."""
        self._left -= num
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & ((1 << num) - 1)

    def unsigned(self) -> int:
        """ue(v)."""
        num_zeros = 0
        while not self.take(1):
            num_zeros += 1
            if num_zeros > 32:
                raise ValueError
        return (1 << num_zeros) - 1 + self.take(num_zeros)

    def signed(self) -> int:
        """se(v)."""
        value = self.unsigned()
        return (value + 1) // 2 if value & 1 else -(value // 2)


def _read_h264_sps(sps: bytes) -> PictureFormat:
    bits = _Bits(sps)
    profile = bits.take(8)
    bits.take(16)
    bits.unsigned()
    chroma, depth = 1, 8
    if profile in _H264_PROFILES_WITH_CHROMA:
        chroma, depth = _read_h264_chroma(bits)
    bits.unsigned()
    _skip_h264_order(bits)
    num_references = bits.unsigned()
    bits.take(1)
    width, rows = 16 * (bits.unsigned() + 1), 16 * (bits.unsigned() + 1)
    height = rows * (2 - bits.take(1))
    return PictureFormat(width, height, _bytes_per_pixel(chroma, depth), num_references)


def _read_h264_chroma(bits: _Bits) -> tuple[int, int]:
    """Return chroma format and the larger bit depth; skips the scaling lists."""
    chroma = bits.unsigned()
    if chroma == 3:
        bits.take(1)
    depth = 8 + max(bits.unsigned(), bits.unsigned())
    bits.take(1)
    if bits.take(1):
        for number in range(12 if chroma == 3 else 8):
            if bits.take(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    return chroma, depth


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _skip_h264_order(bits: _Bits) -> None:
    """Skip pic_order_cnt_type and its fields."""
    kind = bits.unsigned()
    if kind == 0:
        bits.unsigned()
    elif kind == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.unsigned(), 255)):
            bits.signed()


def _read_hevc_sps(sps: bytes) -> PictureFormat:
    bits = _Bits(sps)
    bits.take(4)
    num_layers = bits.take(3)
    bits.take(1)
    _skip_hevc_profile(bits, num_layers)
    bits.unsigned()
    chroma = bits.unsigned()
    if chroma == 3:
        bits.take(1)
    width, height = bits.unsigned(), bits.unsigned()
    if bits.take(1):
        for _ in range(4):
            bits.unsigned()
    depth = 8 + max(bits.unsigned(), bits.unsigned())
    bits.unsigned()
    num_rows = num_layers + 1 if bits.take(1) else 1
    num_references = 1
    for _ in range(num_rows):
        num_references = max(num_references, 1 + bits.unsigned())
        bits.unsigned()
        bits.unsigned()
    return PictureFormat(width, height, _bytes_per_pixel(chroma, depth), num_references)


def _skip_hevc_profile(bits: _Bits, num_layers: int) -> None:
    """Skip profile_tier_level: 88 bits of profile and 8 of level, then the same for each layer that has them."""
    bits.take(96)
    present = [(bits.take(1), bits.take(1)) for _ in range(num_layers)]
    if num_layers:
        bits.take(2 * (8 - num_layers))
    for has_profile, has_level in present:
        bits.take(88 * has_profile + 8 * has_level)
