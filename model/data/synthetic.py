"""The synthetic audio-visual world: batches of samples for training, rendered from seeds alone.

Needs torch and numpy only. Training uses seeds of at least TRAINING_SEEDS; everything that is evaluated uses smaller
ones, so no evaluation clip is ever trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.data.world.mix import Mix, is_near_edge, mix_scene, window_at
from model.data.world.render import Shot, render
from model.data.world.scene import (
    KINDS,
    MAX_VISIBLE,
    STREAM_TIMES,
    WORLD_VERSION,
    Scene,
    SceneOptions,
    draw_scene,
    stream,
)

__all__ = ["KINDS", "TRAINING_SEEDS", "WORLD_VERSION", "SampleBatch", "SceneOptions", "sample_batch"]

TRAINING_SEEDS = 2**32  # training seeds start here, evaluation seeds stay below
LOOK_UP_FRAMES = 8  # few enough for a CPU's cache
FIRST_TIME_S = 0.1
MIN_VISIBLE_SHARE = 0.003  # a smaller visible sounding area is ambiguous (docs/contract.md)


@dataclass(frozen=True)
class SampleBatch:
    """Samples with their truth.

    Attributes:
        frames: (B, H, W, 3) uint8 RGB, squashed to size_px x size_px whatever the scene's aspect ratio.
        windows: (B, 15600) float32 mono 16 kHz in [-1, 1], ending at each sample's time; zeros before the clip's start.
        masks: (B, H, W) bool, visible pixels of the objects that sound.
        kind_map: (B, H, W) uint8, 0 background, else 1 + kind index of the topmost object.
        sounding_kinds: (B, len(KINDS)) bool, kinds that sound by the truth rule, on screen or off.
        ambiguous: (B,) bool, where the truth is ambiguous (docs/contract.md).
        clip_ids: (B,) int64, the seeds.
    """

    frames: Tensor
    windows: Tensor
    masks: Tensor
    kind_map: Tensor
    sounding_kinds: Tensor
    ambiguous: Tensor
    clip_ids: Tensor


def sample_batch(
    seeds: Sequence[int],
    *,
    samples_per_clip: int,
    size_px: int,
    device: torch.device | str = "cpu",
    options: SceneOptions | None = None,
    frame_rate_hz: float | None = None,
) -> SampleBatch:
    """Samples at random times of the clips of `seeds`, samples_per_clip of each in a row.

    A sample depends only on its seed, its place within the clip, size_px and options, not on its neighbours. The
    same seeds give the same samples on every device up to rounding: windows within 0.01, frames within 2 levels for
    all but 0.1 % of the values, masks for all but 0.1 % of the pixels.

    Args:
        seeds: one per clip; training uses seeds >= TRAINING_SEEDS.
        samples_per_clip: samples of each clip, at times drawn uniformly (0.1 s .. end of the clip).
        size_px: height and width of the frames.
        device: where the batch is computed and left.
        options: number of visible objects, length, aspect, background; default 1 to 4 objects, 5 s, any aspect, usual.
        frame_rate_hz: of the clips' frames, to which times are moved back; None leaves them as drawn.

    Returns:
        A SampleBatch with B = len(seeds) * samples_per_clip.
    """
    place = torch.device(device)
    scenes = [draw_scene(seed, options or SceneOptions()) for seed in seeds]
    moments: list[_Moment] = []
    for scene in scenes:
        mix = mix_scene(scene, device=place)
        times_s = draw_times(scene, samples_per_clip, frame_rate_hz=frame_rate_hz)
        moments += [_moment(scene, mix, time_s=time_s, number=i) for i, time_s in enumerate(times_s)]
    picture = render([moment.shot for moment in moments], width=size_px, height=size_px, device=place)
    kind_map = _look_up(torch.from_numpy(np.stack([_kinds_of_ids(m.shot.scene) for m in moments])), picture.ids)
    sounding = torch.from_numpy(np.stack([m.sounding_kinds for m in moments])).to(place)  # (B, kinds)
    masks = masks_of(kind_map, sounding)
    is_tiny = masks.flatten(1).float().mean(dim=1) < MIN_VISIBLE_SHARE
    has_visible_source = torch.tensor([m.has_visible_source for m in moments], device=place)
    is_at_edge = torch.tensor([m.is_at_edge for m in moments], device=place)
    return SampleBatch(
        frames=picture.frames,
        windows=torch.stack([m.window for m in moments]),
        masks=masks,
        kind_map=kind_map,
        sounding_kinds=sounding,
        ambiguous=is_at_edge | (has_visible_source & is_tiny),
        clip_ids=torch.tensor(list(seeds), dtype=torch.int64).repeat_interleave(samples_per_clip).to(place),
    )


def draw_times(scene: Scene, count: int, *, frame_rate_hz: float | None = None) -> list[float]:
    """Times in seconds of the first `count` samples of a clip, uniform from 0.1 s on, moved back to frames if asked."""
    drawn = [float(stream(scene.seed, STREAM_TIMES, i).uniform(FIRST_TIME_S, scene.seconds)) for i in range(count)]
    if frame_rate_hz is None:
        return drawn
    return [int(time_s * frame_rate_hz) / frame_rate_hz for time_s in drawn]


def masks_of(kind_map: Tensor, sounding_kinds: Tensor) -> Tensor:
    """(B, H, W) bool: pixels of kind_map (B, H, W) uint8 whose kind sounds, by sounding_kinds (B, kinds) bool."""
    return _look_up(torch.nn.functional.pad(sounding_kinds, (1, 0)), kind_map)


@dataclass(frozen=True)
class _Moment:
    """One sample before painting."""

    shot: Shot
    window: Tensor
    sounding_kinds: npt.NDArray[np.bool_]
    has_visible_source: bool
    is_at_edge: bool


def _moment(scene: Scene, mix: Mix, *, time_s: float, number: int) -> _Moment:
    sounding = [s for s, is_on in zip(scene.sources, mix.is_sounding(time_s), strict=True) if is_on]
    kinds = np.zeros(len(KINDS), bool)
    kinds[[source.kind for source in sounding]] = True
    return _Moment(
        shot=Shot(scene, time_s, number),
        window=window_at(mix.waveform, time_s=time_s),
        sounding_kinds=kinds,
        has_visible_source=any(source.slot for source in sounding),
        is_at_edge=is_near_edge(scene, mix, time_s=time_s),
    )


def _kinds_of_ids(scene: Scene) -> npt.NDArray[np.uint8]:
    """(MAX_VISIBLE + 1,) from object id to 1 + kind index; 0 stays 0."""
    kinds = np.zeros(MAX_VISIBLE + 1, np.uint8)
    for source in scene.sources:
        kinds[source.slot] = 1 + source.kind if source.slot else 0
    return kinds


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """(B, H, W) the entries that index (B, H, W) picks from each row of table (B, N)."""
    rows = torch.arange(index.shape[0], dtype=torch.int32, device=index.device) * table.shape[1]
    flat = table.to(index.device).flatten()
    parts = zip(torch.split(index, LOOK_UP_FRAMES), torch.split(rows, LOOK_UP_FRAMES), strict=True)
    found = [flat.index_select(0, (part + row[:, None, None]).flatten()) for part, row in parts]
    return torch.cat(found).view(index.shape)
