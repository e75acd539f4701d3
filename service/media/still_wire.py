"""The bytes between the service and a child that decodes single pictures."""

from __future__ import annotations

import struct

JPEG, RGB24 = 1, 2
REQUEST = struct.Struct("<BIIIIQ")
"""Kind, source height and width (RGB24), wanted height and width (pixels), bytes that follow."""
SIZE = struct.Struct("<II")
"""Height and width of the source picture, before the answer's RGB bytes."""
