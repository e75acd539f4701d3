"""Figures of a model on the synthetic world, on seeds that no training run and no example clip uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from model.data.synthetic import SampleBatch, sample_batch
from model.metrics import PROTOCOL_CLIPS_PER_BATCH, f_curve, field_f, field_j, mask_iou, order_free_f

# Training seeds start at 2**32 and example clips count from 0.
FIRST_EVALUATION_SEED = 2**31
# "Empty" in every figure: under 0.5 % of the frame.
EMPTY_SHARE = 0.005
CLIPS_PER_BATCH = 8
NOISE_LEVEL = 0.003  # about -50 dB: a quiet room

Segment = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]


@dataclass
class Tally:
    """Running per-sample values by figure name."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        """Append values of any shape."""
        self.values.setdefault(name, []).extend(values.flatten().double().tolist())

    def mean(self, name: str) -> float | None:
        """Mean of a figure, None where no sample counted."""
        values = self.values.get(name, [])
        return sum(values) / len(values) if values else None


def evaluate_synthetic(
    segment: Segment,
    *,
    num_clips: int,
    size_px: int,
    samples_per_clip: int = 3,
    first_seed: int = FIRST_EVALUATION_SEED,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, float | int | None]:
    """Measure a binary model.

    Args:
        segment: frames uint8 (B, H, W, 3) and windows (B, 15600) to mask probabilities (B, H, W).
        num_clips: unseen clips.
        size_px: frame height and width.
        samples_per_clip: samples drawn per clip.
        first_seed: seed of the first clip.
        device: where clips are rendered and segmented.
        progress: called with clips done and in all.

    Returns:
        `iou_sounding` (sounding, not ambiguous samples), `wrong_sound_iou` (same pictures and truth, another clip's
        window), `empty_ok`, `muted_ok`, `noise_ok`, `off_screen_ok` (shares of samples under 0.5 % of the frame where
        nothing visible sounds, under silence, under faint noise, and under off-screen sound only), the field's
        `field_j`, `field_f_2_clips` and `order_free_f` (all samples, the ambiguous ones
        too), and the counts behind them.
    """
    tally = Tally()
    curves: list[Tensor] = []
    done = 0
    batches = evaluation_batches(num_clips, samples_per_clip=samples_per_clip, size_px=size_px, first_seed=first_seed)
    for batch in batches:
        curves.extend(_measure(segment, batch, tally, samples_per_clip=samples_per_clip))
        done = min(num_clips, done + CLIPS_PER_BATCH)
        if progress is not None:
            progress(done, num_clips)
    figures: dict[str, float | int | None] = {
        name: tally.mean(name)
        for name in ("iou_sounding", "wrong_sound_iou", "empty_ok", "off_screen_ok", "muted_ok", "noise_ok")
    }
    figures["field_j"] = tally.mean("field_j")
    figures["field_f_2_clips"] = field_f(curves)
    figures["order_free_f"] = order_free_f(torch.cat(curves))
    figures["num_clips"] = num_clips
    figures["num_samples"] = len(tally.values["field_j"])
    for name in ("iou_sounding", "empty_ok", "off_screen_ok"):
        figures[f"num_{name}"] = len(tally.values.get(name, []))
    return figures


def evaluation_batches(
    num_clips: int, *, samples_per_clip: int, size_px: int, first_seed: int, device: torch.device | str = "cpu"
) -> Iterator[SampleBatch]:
    """Batches of up to 8 clips of the evaluation seeds."""
    for start in range(0, num_clips, CLIPS_PER_BATCH):
        seeds = range(first_seed + start, first_seed + min(start + CLIPS_PER_BATCH, num_clips))
        yield sample_batch(seeds, samples_per_clip=samples_per_clip, size_px=size_px, device=device)


def probabilities(logits: Tensor, *, height: int, width: int) -> Tensor:
    """Binary logits (B, 1, h, w) to probabilities (B, H, W), upsampled as logits, bilinear."""
    full = F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
    return full[:, 0].sigmoid()


def _measure(segment: Segment, batch: SampleBatch, tally: Tally, *, samples_per_clip: int) -> list[Tensor]:
    truth, clear = batch.masks.cpu(), ~batch.ambiguous.cpu()
    sounds = truth.any(dim=2).any(dim=1)
    probability = segment(batch.frames, batch.windows).cpu()
    masks = probability > 0.5
    tally.add("iou_sounding", mask_iou(masks, truth)[sounds & clear])
    is_empty = _is_empty(masks)
    tally.add("empty_ok", is_empty[~sounds & clear])
    off_screen = ~sounds & clear & batch.sounding_kinds.cpu().any(dim=1)
    tally.add("off_screen_ok", is_empty[off_screen])
    other = segment(batch.frames, batch.windows.roll(samples_per_clip, dims=0)).cpu() > 0.5
    tally.add("wrong_sound_iou", mask_iou(other, truth)[sounds & clear])
    tally.add("muted_ok", _is_empty(segment(batch.frames, torch.zeros_like(batch.windows)).cpu() > 0.5))
    generator = torch.Generator().manual_seed(int(batch.clip_ids[0]) % 2**31)
    noise = torch.randn(batch.windows.shape, generator=generator).to(batch.windows) * NOISE_LEVEL
    tally.add("noise_ok", _is_empty(segment(batch.frames, noise).cpu() > 0.5))
    tally.add("field_j", field_j(masks, truth))
    step = PROTOCOL_CLIPS_PER_BATCH * samples_per_clip
    return [
        f_curve(probability[start : start + step], truth[start : start + step]) for start in range(0, len(truth), step)
    ]


def _is_empty(masks: Tensor) -> Tensor:
    return masks.float().mean(dim=(1, 2)) < EMPTY_SHARE
