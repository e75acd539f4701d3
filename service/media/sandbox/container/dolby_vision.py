"""Dolby Vision: whether the picture is an ordinary one for decoders that do not know it.

Profile 5 (and 10.0 of AV1) codes its base layer in ICtCp with a reshaping that only a Dolby Vision decoder undoes.
Shown as YCbCr it is green and purple. The other profiles have a base layer of HDR10, HLG or SDR and Dolby's metadata.
"""

from __future__ import annotations

from collections.abc import Iterable

# Configuration boxes of profiles up to 7, 8 to 10, and later ones.
_BOXES = ("dvcC", "dvvC", "dvwC")
# Profiles whose base layer depends on `dv_bl_signal_compatibility_id`, where 0 is none: AV1 and MV-HEVC.
_BY_COMPATIBILITY = (10, 20)
_LEAST_BYTES = 5


def closed_profile(boxes: Iterable[tuple[str, bytes]]) -> int | None:
    """Return the profile whose base layer only a Dolby Vision decoder can show; None for all other pictures.

    Args:
        boxes: kind and body of the boxes in a visual sample entry.
    """
    for kind, body in boxes:
        if kind in _BOXES and len(body) >= _LEAST_BYTES:
            profile, compatibility = body[2] >> 1, body[4] >> 4
            if profile == 5 or (profile in _BY_COMPATIBILITY and compatibility == 0):
                return profile
    return None
