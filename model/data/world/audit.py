"""Measure how well the synthetic world's truth can be guessed without sound, on clips as `synthesize` renders them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.data.sample_times import FIRST_SAMPLE_S
from model.data.synthetic import MIN_VISIBLE_SHARE
from model.data.world.mix import Mix, is_near_edge, mix_scene
from model.data.world.render import Picture, Shot, render
from model.data.world.scene import KINDS, Scene, SceneOptions, draw_scene

AUDIT_WIDTH_PX, AUDIT_HEIGHT_PX = 160, 120


@dataclass(frozen=True)
class _Tally:
    """Contribution of one sample to the figures. IoUs are NaN unless a visible object sounds and it is unambiguous."""

    iou_all_visible: float
    iou_largest: float
    is_sounding: bool
    has_silent_visible: bool
    has_off_screen_sound: bool
    is_quiet: bool
    is_ambiguous: bool


def audit(num: int, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> dict[str, float | int]:
    """Return figures over `num` clips of 5 s and 4:3 with seeds seed .. seed + num - 1, at one sample per second.

    Args:
        num: number of clips, at least 2.
        seed: first seed.
        progress: called with the numbers of clips done and of all clips.

    Returns:
        num_clips, num_samples, num_kinds; over the sounding samples (some visible object sounds) that are not
        ambiguous: iou_all_visible and iou_largest (mean IoU of the guesses "every visible object" and "the largest
        object"), share_sounding_with_silent; over all samples: share_off_screen, share_quiet (nothing sounds on
        screen or off), share_sounding, share_ambiguous; colour_guess: accuracy of the nearest mean colour, means
        from one half of the clips and guesses on the other.

    Raises:
        ValueError: for num < 2.
    """
    if num < 2:
        raise ValueError(f"num must be at least 2, got {num}")
    tallies: list[_Tally] = []
    colours: list[list[tuple[int, npt.NDArray[np.float64]]]] = []
    for i in range(num):
        scene = draw_scene(seed + i, SceneOptions(aspect=AUDIT_WIDTH_PX / AUDIT_HEIGHT_PX))
        mix = mix_scene(scene, device=torch.device("cpu"))
        times_s = FIRST_SAMPLE_S + np.arange(int(scene.seconds))
        shots = [Shot(scene, float(t), k) for k, t in enumerate(times_s)]
        picture = render(shots, width=AUDIT_WIDTH_PX, height=AUDIT_HEIGHT_PX, device=torch.device("cpu"))
        ids = picture.ids.numpy()
        tallies += [_tally(scene, mix, ids[k], time_s=float(t)) for k, t in enumerate(times_s)]
        colours.append(_mean_colours(scene, picture))
        if progress is not None:
            progress(i + 1, num)
    return {"num_clips": num, **_summary(tallies), "colour_guess": _guess_by_colour(colours)}


def _tally(scene: Scene, mix: Mix, ids: npt.NDArray[np.uint8], *, time_s: float) -> _Tally:
    is_on = mix.is_sounding(time_s)
    sounding = [source.slot for source, on in zip(scene.sources, is_on, strict=True) if on]
    areas = np.bincount(ids.flatten(), minlength=scene.num_visible + 1)
    areas[0] = 0
    visible = set(np.flatnonzero(areas).tolist())
    heard = visible & set(sounding)
    truth_area = int(areas[list(heard)].sum()) if heard else 0
    is_tiny = any(sounding) and truth_area < MIN_VISIBLE_SHARE * ids.size
    is_ambiguous = is_near_edge(scene, mix, time_s=time_s) or is_tiny
    counts = bool(heard) and not is_ambiguous
    largest = int(np.argmax(areas))
    overlap = int(areas[largest]) if largest in heard else 0
    return _Tally(
        iou_all_visible=truth_area / areas.sum() if counts else np.nan,
        iou_largest=overlap / (truth_area + areas[largest] - overlap) if counts else np.nan,
        is_sounding=counts,
        has_silent_visible=bool(visible - heard),
        has_off_screen_sound=0 in sounding,
        is_quiet=not sounding,
        is_ambiguous=is_ambiguous,
    )


def _summary(tallies: list[_Tally]) -> dict[str, float | int]:
    sounding = [tally for tally in tallies if tally.is_sounding]
    return {
        "num_samples": len(tallies),
        "num_kinds": len(KINDS),
        "iou_all_visible": _mean([t.iou_all_visible for t in sounding]),
        "iou_largest": _mean([t.iou_largest for t in sounding]),
        "share_sounding_with_silent": _mean([t.has_silent_visible for t in sounding]),
        "share_off_screen": _mean([t.has_off_screen_sound for t in tallies]),
        "share_quiet": _mean([t.is_quiet for t in tallies]),
        "share_sounding": len(sounding) / len(tallies),
        "share_ambiguous": _mean([t.is_ambiguous for t in tallies]),
    }


def _mean(values: list[float] | list[bool]) -> float:
    return round(float(np.mean(values)), 4) if values else float("nan")


def _mean_colours(scene: Scene, picture: Picture) -> list[tuple[int, npt.NDArray[np.float64]]]:
    """Return kind and mean RGB of every object in the clip's first sample."""
    ids, frame = picture.ids[0].numpy(), picture.frames[0].numpy()
    kinds = {source.slot: source.kind for source in scene.sources if source.slot}
    return [
        (kind, frame[ids == slot].mean(axis=0).astype(np.float64))
        for slot, kind in kinds.items()
        if (ids == slot).any()
    ]


def _guess_by_colour(clips: list[list[tuple[int, npt.NDArray[np.float64]]]]) -> float:
    """Return the accuracy on the odd clips of guessing the kind whose mean colour over the even clips is nearest."""
    known = [pair for clip in clips[::2] for pair in clip]
    asked = [pair for clip in clips[1::2] for pair in clip]
    kinds = sorted({kind for kind, _ in known})
    means = np.stack([np.mean([colour for k, colour in known if k == kind], axis=0) for kind in kinds])
    hits = [kinds[int(np.argmin(np.linalg.norm(means - colour, axis=1)))] == kind for kind, colour in asked]
    return _mean(hits)
