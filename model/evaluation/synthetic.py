"""Evaluation on the synthetic world, on seeds that no training run and no example clip uses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.data.synthetic import KINDS, SampleBatch, sample_batch
from model.evaluation.metrics import PROTOCOL_CLIPS_PER_BATCH, f_curve, field_f, field_j, mask_iou, order_free_f
from model.network.avesformer import AVESFormer
from model.network.preprocess import normalise_frames, window_log_mel

# Training seeds start at 2**32 and example clips count from 0.
FIRST_EVALUATION_SEED = 2**31
# A mask is empty if it covers less than this share of the frame.
EMPTY_SHARE = 0.005
CLIPS_PER_BATCH = 8
# Root mean square of the faint noise in units of full scale, about -50 dBFS: a quiet room.
NOISE_LEVEL = 0.003
# A predicted mask matches a true one from this IoU on.
MATCH_IOU = 0.5
HEARING_FIGURES = ("iou_sounding", "wrong_sound_iou", "empty_ok", "off_screen_ok", "muted_ok", "noise_ok")

Segment = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[int, int], None]


@dataclass
class Tally:
    """Per-sample values by name of the figure."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, values: Tensor) -> None:
        """Append values of any shape."""
        self.values.setdefault(name, []).extend(values.flatten().double().tolist())

    def mean(self, name: str) -> float | None:
        """Return the mean of a figure, None without samples."""
        values = self.values.get(name, [])
        return sum(values) / len(values) if values else None


def evaluate_synthetic(
    segment: Segment,
    *,
    is_semantic: bool = False,
    num_clips: int,
    size_px: int,
    samples_per_clip: int = 3,
    first_seed: int = FIRST_EVALUATION_SEED,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on unseen clips.

    Args:
        segment: frames uint8 (B, H, W, 3) and windows (B, 15600) to probabilities: of a mask (B, H, W), or of classes
            (B, 1 + kinds, H, W) if semantic. See `segmenter`.
        is_semantic: whether `segment` returns one class per kind.
        num_clips: number of clips.
        size_px: frame height and width.
        samples_per_clip: samples drawn from each clip.
        first_seed: seed of the first clip.
        device: device that renders and segments the clips.
        progress: called with the numbers of clips done and of all clips.

    Returns:
        For both kinds of model, all labels of a semantic one together: `iou_sounding` (mean IoU of unambiguous samples
        in which something visible sounds), `wrong_sound_iou` (the same frames and truth with another clip's window),
        and the shares of samples whose mask is empty: `empty_ok` (nothing visible sounds), `off_screen_ok` (only
        something off screen sounds), `muted_ok` (silence), `noise_ok` (faint noise).

        Binary models: `field_j`, `field_f_2_clips` and `order_free_f` over all samples, and counts.

        Semantic models: `iou_by_kind` (IoU of each kind in the unambiguous samples in which it visibly sounds),
        `miou_present_kinds` (its mean over kinds), `label_accuracy` (share of predicted masks with IoU >= 0.5 with a
        sounding object that have the object's label) and `num_matched` (number of those masks).
    """
    tally, curves, done = Tally(), list[Tensor](), 0
    for batch in evaluation_batches(
        num_clips, samples_per_clip=samples_per_clip, size_px=size_px, first_seed=first_seed, device=device
    ):
        if is_semantic:
            _measure_classes(segment, batch, tally, samples_per_clip=samples_per_clip)
        else:
            curves += _measure(segment, batch, tally, samples_per_clip=samples_per_clip)
        done = min(num_clips, done + CLIPS_PER_BATCH)
        if progress is not None:
            progress(done, num_clips)
    hearing = {name: tally.mean(name) for name in HEARING_FIGURES}
    if is_semantic:
        return _label_figures(tally) | hearing | {"num_clips": num_clips, "iou_by_kind": _iou_by_kind(tally)}
    figures: dict[str, Any] = {
        **hearing,
        "field_j": tally.mean("field_j"),
        "field_f_2_clips": field_f(curves),
        "order_free_f": order_free_f(torch.cat(curves)),
        "num_clips": num_clips,
        "num_samples": len(tally.values["field_j"]),
    }
    counted = ("iou_sounding", "empty_ok", "off_screen_ok")
    return figures | {f"num_{name}": len(tally.values.get(name, [])) for name in counted}


def evaluation_batches(
    num_clips: int, *, samples_per_clip: int, size_px: int, first_seed: int, device: torch.device | str = "cpu"
) -> Iterator[SampleBatch]:
    """Yield batches of up to 8 clips of the evaluation seeds."""
    for start in range(0, num_clips, CLIPS_PER_BATCH):
        seeds = range(first_seed + start, first_seed + min(start + CLIPS_PER_BATCH, num_clips))
        yield sample_batch(seeds, samples_per_clip=samples_per_clip, size_px=size_px, device=device)


def segmenter(model: AVESFormer) -> Segment:
    """Return a function from frames and windows to mask probabilities, or to class probabilities if semantic."""

    @torch.inference_mode()
    def segment(frames: Tensor, windows: Tensor) -> Tensor:
        logits = model(normalise_frames(frames), window_log_mel(windows))
        if model.config.is_semantic:
            return class_probabilities(logits, height=frames.shape[1], width=frames.shape[2])
        return probabilities(logits, height=frames.shape[1], width=frames.shape[2])

    return segment


@torch.inference_mode()
def attention_figures(model: AVESFormer, frames: Tensor, log_mel: Tensor) -> list[dict[str, float]]:
    """Measure how concentrated the cross-attention of each transformer block is. With one key all figures are 0.

    Args:
        model: a network in eval mode.
        frames: (B, H, W, 3) uint8.
        log_mel: (B, 1, 96, 64).

    Returns:
        For each block `entropy` (mean over pixels and heads, nats), `largest_entropy` (ln Q: every key alike) and
        `row_distance` (mean distance between the weights of two pixels, 0 to sqrt(2)).
    """
    num_keys = model.prompt_query(model.hear(log_mel[:1])).shape[1]
    # One sample at a time, because the distances between all pairs of pixels need much memory.
    samples = [
        model.attention_statistics(normalise_frames(frames[i : i + 1]), log_mel[i : i + 1]) for i in range(len(frames))
    ]
    return [
        {
            "entropy": statistics.fmean(block.entropy for block in blocks),
            "largest_entropy": math.log(num_keys),
            "row_distance": statistics.fmean(block.row_distance for block in blocks),
        }
        for blocks in zip(*samples, strict=True)
    ]


def probabilities(logits: Tensor, *, height: int, width: int) -> Tensor:
    """Return probabilities (B, H, W) of binary logits (B, 1, h, w), which are upsampled bilinearly first."""
    full = F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
    return full[:, 0].sigmoid()


def class_probabilities(logits: Tensor, *, height: int, width: int) -> Tensor:
    """Return probabilities (B, K, H, W) of semantic logits (B, K, h, w), which are upsampled bilinearly first."""
    full = F.interpolate(logits.float(), size=(height, width), mode="bilinear", align_corners=False)
    return full.softmax(dim=1)


def is_empty(masks: Tensor) -> Tensor:
    """Return (B,) bool: which masks (B, H, W) cover less than 0.5 % of the frame."""
    return masks.float().mean(dim=(1, 2)) < EMPTY_SHARE


def _measure(segment: Segment, batch: SampleBatch, tally: Tally, *, samples_per_clip: int) -> list[Tensor]:
    truth = batch.masks.cpu()
    probability = segment(batch.frames, batch.windows).cpu()
    masks = probability > 0.5
    _measure_hearing(
        lambda frames, windows: segment(frames, windows) > 0.5, masks, batch, tally, samples_per_clip=samples_per_clip
    )
    tally.add("field_j", field_j(masks, truth))
    step = PROTOCOL_CLIPS_PER_BATCH * samples_per_clip
    return [
        f_curve(probability[start : start + step], truth[start : start + step]) for start in range(0, len(truth), step)
    ]


def _measure_classes(segment: Segment, batch: SampleBatch, tally: Tally, *, samples_per_clip: int) -> None:
    classes = segment(batch.frames, batch.windows).argmax(dim=1).cpu()  # (B, H, W)
    truth = batch.kind_map.cpu().long() * batch.masks.cpu()
    clear = ~batch.ambiguous.cpu()
    for answer, true in zip(classes[clear], truth[clear], strict=True):
        _tally_labels(answer, true, tally)
    _measure_hearing(
        lambda frames, windows: segment(frames, windows).argmax(dim=1) > 0,
        classes > 0,
        batch,
        tally,
        samples_per_clip=samples_per_clip,
    )


def _iou_by_kind(tally: Tally) -> dict[str, float]:
    by_kind = {name: tally.mean(f"kind {name}") for name in KINDS}
    return {name: value for name, value in by_kind.items() if value is not None}


def _label_figures(tally: Tally) -> dict[str, Any]:
    by_kind = _iou_by_kind(tally)
    return {
        "miou_present_kinds": sum(by_kind.values()) / len(by_kind) if by_kind else None,
        "label_accuracy": tally.mean("label_accuracy"),
        "num_matched": len(tally.values.get("label_accuracy", [])),
    }


def _measure_hearing(
    masks_of: Segment, masks: Tensor, batch: SampleBatch, tally: Tally, *, samples_per_clip: int
) -> None:
    """Tally the masks with the own sound (given), another clip's sound, silence and faint noise."""
    truth, clear = batch.masks.cpu(), ~batch.ambiguous.cpu()
    sounds = truth.any(dim=2).any(dim=1)
    tally.add("iou_sounding", mask_iou(masks, truth)[sounds & clear])
    tally.add("empty_ok", is_empty(masks)[~sounds & clear])
    off_screen = ~sounds & clear & batch.sounding_kinds.cpu().any(dim=1)
    tally.add("off_screen_ok", is_empty(masks)[off_screen])
    other = masks_of(batch.frames, batch.windows.roll(samples_per_clip, dims=0)).cpu()
    tally.add("wrong_sound_iou", mask_iou(other, truth)[sounds & clear])
    tally.add("muted_ok", is_empty(masks_of(batch.frames, torch.zeros_like(batch.windows)).cpu()))
    generator = torch.Generator().manual_seed(int(batch.clip_ids[0]) % 2**31)
    noise = torch.randn(batch.windows.shape, generator=generator).to(batch.windows) * NOISE_LEVEL
    tally.add("noise_ok", is_empty(masks_of(batch.frames, noise).cpu()))


def _tally_labels(classes: Tensor, truth: Tensor, tally: Tally) -> None:
    """Tally one sample, both (H, W) int64: IoU of each true kind, and whether matched masks have the right label."""
    true_labels = [int(label) for label in torch.unique(truth).tolist() if label]
    for label in true_labels:
        tally.add(f"kind {KINDS[label - 1]}", mask_iou((classes == label)[None], (truth == label)[None]))
    for label in (int(label) for label in torch.unique(classes).tolist() if label):
        mask = (classes == label)[None]
        matched = [true for true in true_labels if float(mask_iou(mask, (truth == true)[None])) >= MATCH_IOU]
        if matched:
            tally.add("label_accuracy", torch.tensor([label in matched]))
