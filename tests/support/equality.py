"""Equal answers as docs/contract.md defines them: how far two masks of one sample may differ."""

from __future__ import annotations

# Scores of equal answers differ by at most this.
SCORE_SLACK = 0.01
# Pixels at model scale, and share of the larger mask: the larger of the two bounds holds.
PIXEL_SLACK = 8
AREA_SLACK = 0.005


def allowed_pixels(first_area: int, second_area: int, *, scale: float = 1.0) -> float:
    """Return how many pixels two masks of equal answers may differ in.

    Args:
        first_area: pixels of one mask.
        second_area: pixels of the other.
        scale: pixels of the answer for each pixel at model scale.
    """
    return max(PIXEL_SLACK * scale, AREA_SLACK * max(first_area, second_area))
