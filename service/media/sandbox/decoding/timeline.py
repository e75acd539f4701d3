"""Start and end of a clip's time line, from the claims of its tracks (docs/contract.md, "Time")."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

# Tracks that both begin later than this begin at another origin: they were cut from a longer stream, seconds. Earlier
# starts are offsets of priming, of reordering and of edit lists.
_LATEST_START_S = 1.0
# A last frame may claim any duration (19 307 s was seen from a 28 kB file). One that nothing confirms lasts at most
# this long, seconds.
MAX_LAST_FRAME_S = 10.0
# A claim of the last frame shorter than this counts as no claim, seconds.
_NO_CLAIM_S = 0.001
# A lone frame that claims no more than this tells its frame rate, not how long it is shown, seconds.
_LONE_CLAIM_S = 1.0
# Ends of two tracks agree within a second, or a twentieth of the length.
_AGREE_S, _AGREE_SHARE = 1.0, 0.05


@dataclass(frozen=True, slots=True)
class EndClaims:
    """Claims of parts other than its frames about where the picture ends, seconds on the time line.

    Attributes:
        media_s: by the track's media header; None if it has none.
        sound_s: end of the sound track, with its edit list applied; None if unknown.
        edit_s: by the edit list, which takes precedence; None without one.
    """

    media_s: float | None = None
    sound_s: float | None = None
    edit_s: float | None = None


def start_of(ticks: int | None, tick: Fraction | None) -> Fraction | None:
    """Return where a track begins, seconds, from the ticks of its first frame; None where either is unknown."""
    return None if ticks is None or not tick else ticks * Fraction(tick)


def origin_of(picture_start: Fraction | None, sound_start: Fraction | None, *, tick: Fraction) -> Fraction:
    """Return the timestamp that becomes time 0, a multiple of `tick`, all in seconds.

    It is 0 unless both tracks begin more than a second later, as in a fragment of a longer stream. Then it is the start
    of whichever begins first.
    """
    if picture_start is None or sound_start is None:
        return Fraction(0)
    start = min(picture_start, sound_start)
    return start // tick * tick if start > _LATEST_START_S else Fraction(0)


def clamp_last_s(last_s: float, *, spacing_s: float) -> float:
    """Return the last frame's duration, corrected: the usual spacing if it claims none, at most 10 s."""
    if not math.isfinite(last_s) or last_s <= 0:
        last_s = spacing_s
    if not math.isfinite(last_s) or last_s <= 0:
        last_s = 0.04  # a lone picture without any duration: one frame at 25 per second
    return min(last_s, MAX_LAST_FRAME_S)


def end_of_picture(last_start_s: float, last_s: float, *, spacing_s: float, claims: EndClaims) -> float:
    """Return the end of the picture track in seconds.

    It is the start of the last frame plus its duration. A duration of more than 10 s (a slide, a still picture) counts
    if the media header or the end of the sound confirms it. Where the frame claims no duration, or such a long one that
    nothing confirms, the other two count if they agree. A lone frame that claims no more than a second is a still
    picture, which players show to the end of the sound.

    Args:
        last_start_s: timestamp of the last frame.
        last_s: its duration, as claimed.
        spacing_s: usual time between frames, 0 for a lone frame.
        claims: the other claims.
    """
    usual_s = last_start_s + clamp_last_s(last_s, spacing_s=spacing_s)
    end_s = usual_s
    if math.isfinite(last_s) and last_s > MAX_LAST_FRAME_S:
        claimed_s = last_start_s + last_s
        if _agree(claimed_s, claims.media_s) or _agree(claimed_s, claims.sound_s):
            end_s = claimed_s
    if end_s == usual_s and not _NO_CLAIM_S < last_s <= MAX_LAST_FRAME_S:
        media_s = claims.media_s
        if media_s is not None and media_s > last_start_s and _agree(media_s, claims.sound_s):
            end_s = media_s
    edit_s = claims.edit_s if claims.edit_s is not None and claims.edit_s > last_start_s else math.inf
    if spacing_s == 0 and end_s - last_start_s <= _LONE_CLAIM_S:
        end_s = max(end_s, claims.sound_s or 0.0)
        if edit_s - last_start_s <= _LONE_CLAIM_S:
            edit_s = math.inf  # repeats what the frame claims
    return min(end_s, edit_s) if end_s > usual_s else end_s


def _agree(end_s: float, other_s: float | None) -> bool:
    return other_s is not None and abs(end_s - other_s) <= max(_AGREE_S, _AGREE_SHARE * end_s)
