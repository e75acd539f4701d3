"""Mask metrics: those of published AVS results, with their peculiarities, and plain ones. They are not comparable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETA_SQUARED = 0.3
NUM_F_THRESHOLDS = 255
PROTOCOL_CLIPS_PER_BATCH = 2  # the batch size of the published F-scores (AVSegFormer, COMBO)
J_EPSILON = 1e-7
F_EPSILON = 1e-20
SEMANTIC_EPSILON = 2.220446049250313e-16


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """Return the plain intersection over union; two empty masks score 1.

    Args:
        masks: (B, H, W) boolean.
        truth: (B, H, W) boolean.

    Returns:
        (B,) float64.
    """
    intersection = (masks & truth).sum(dim=(1, 2)).double()
    union = (masks | truth).sum(dim=(1, 2)).double()
    return torch.where(union > 0, intersection / union.clamp(min=1), torch.ones_like(union))


def field_j(masks: Tensor, truth: Tensor) -> Tensor:
    """Return M_J of each frame as published results compute it (AVSBench `mask_iou`).

    A frame with an empty truth scores the share of pixels left empty: 1 for an empty mask and nearly 1 for a small
    wrong one. Scores of quiet frames are therefore too high.

    Args:
        masks: (B, H, W) boolean.
        truth: (B, H, W) boolean.

    Returns:
        (B,) float64. The protocol's value is the unweighted mean over batches of their means.
    """
    intersection = (masks & truth).sum(dim=(1, 2)).double()
    union = (masks | truth).sum(dim=(1, 2)).double()
    num_pixels = float(truth[0].numel())
    is_empty = ~truth.any(dim=2).any(dim=1)
    both_empty = (~(masks | truth)).sum(dim=(1, 2)).double()
    return torch.where(is_empty, both_empty / (num_pixels + J_EPSILON), intersection / (union + J_EPSILON))


def f_curve(probability: Tensor, truth: Tensor) -> Tensor:
    """Return the F-score (beta^2 = 0.3) of each frame at AVSBench's 255 thresholds.

    Args:
        probability: (B, H, W) float in [0, 1].
        truth: (B, H, W) boolean.

    Returns:
        (B', 255) float64 for the B' frames whose truth is not empty.
    """
    keep = truth.any(dim=2).any(dim=1)
    thresholds = torch.linspace(0, 1 - 1e-10, NUM_F_THRESHOLDS)
    curves = [_frame_f_curve(p, g, thresholds) for p, g in zip(probability[keep], truth[keep], strict=True)]
    return torch.stack(curves) if curves else torch.zeros(0, NUM_F_THRESHOLDS, dtype=torch.float64)


def _frame_f_curve(probability: Tensor, truth: Tensor, thresholds: Tensor) -> Tensor:
    ordered = probability.flatten().sort().values
    ordered_hits = probability[truth].sort().values
    # Number of values >= threshold: all minus those strictly below.
    num_chosen = (len(ordered) - torch.searchsorted(ordered, thresholds.to(ordered), side="left")).double()
    num_hits = (len(ordered_hits) - torch.searchsorted(ordered_hits, thresholds.to(ordered), side="left")).double()
    precision = num_hits / (num_chosen + F_EPSILON)
    recall = num_hits / (truth.sum().double() + F_EPSILON)
    score = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return torch.nan_to_num(score, nan=0.0)


def field_f(batches: Sequence[Tensor]) -> float:
    """Return M_F as published: the maximum of each batch's mean curve (0 for a batch of empty frames), averaged.

    The value depends on the batch size and order; state the batch size with it (`PROTOCOL_CLIPS_PER_BATCH`).

    Args:
        batches: the `f_curve` of each batch, (B', 255).
    """
    maxima = [float(curves.mean(dim=0).max()) if len(curves) else 0.0 for curves in batches]
    return sum(maxima) / max(len(maxima), 1)


def order_free_f(curves: Tensor) -> float:
    """Return the maximum over thresholds of the data set's mean curve (N, 255), which is independent of batches."""
    return float(curves.mean(dim=0).max()) if len(curves) else 0.0


class BinaryScore:
    """All binary figures of a data set. Each name states how the figure is computed.

    Add one protocol batch (the frames of `PROTOCOL_CLIPS_PER_BATCH` clips) at a time.
    """

    def __init__(self) -> None:
        self.batch_j: list[float] = []
        self.frame_j: list[Tensor] = []
        self.frame_iou: list[Tensor] = []
        self.curves: list[Tensor] = []
        # Pixels over the whole data set: hits, union, and the same of the background.
        self.pixels = torch.zeros(4, dtype=torch.float64)

    def add(self, probability: Tensor, truth: Tensor) -> None:
        """Count a batch: probabilities (B, H, W) in [0, 1] and true masks (B, H, W) boolean."""
        masks = probability > 0.5
        j = field_j(masks, truth)
        self.batch_j.append(float(j.mean()))
        self.frame_j.append(j)
        self.frame_iou.append(mask_iou(masks, truth))
        self.curves.append(f_curve(probability, truth))
        counts = [(masks & truth).sum(), (masks | truth).sum(), (~masks & ~truth).sum(), (~masks | ~truth).sum()]
        self.pixels += torch.stack(counts).double()

    def figures(self) -> dict[str, float]:
        """Return the figures.

        Returns:
            `field_j_2_clips`, `field_f_2_clips`: as the field computes them, means over batches of 2 clips.
            `order_free_j`: mean over frames. `order_free_f`: best point of the mean curve. `mean_iou`: plain IoU, where
            a wrong mask on a silent frame scores 0. `dataset_iou`, `dataset_mean_iou`: of all pixels of the data set
            together, the foreground's and the mean with the background's; another protocol, not comparable.
        """
        hits, union, background_hits, background_union = self.pixels.tolist()
        dataset_iou = hits / union if union else 1.0
        background_iou = background_hits / background_union if background_union else 1.0
        return {
            "field_j_2_clips": sum(self.batch_j) / max(len(self.batch_j), 1),
            "field_f_2_clips": field_f(self.curves),
            "order_free_j": float(torch.cat(self.frame_j).mean()),
            "order_free_f": order_free_f(torch.cat(self.curves)),
            "mean_iou": float(torch.cat(self.frame_iou).mean()),
            "dataset_iou": dataset_iou,
            "dataset_mean_iou": (dataset_iou + background_iou) / 2,
        }


class SemanticScore:
    """AVSS scores: per frame and class, averaged per class over the frames that show it, then over all classes.

    Args:
        num_classes: K with the background.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.iou_sum = torch.zeros(num_classes, dtype=torch.float64)
        self.f_sum = torch.zeros(num_classes, dtype=torch.float64)
        self.num_frames = torch.zeros(num_classes, dtype=torch.float64)
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.float64)  # (true, predicted)

    def add(self, classes: Tensor, truth: Tensor) -> None:
        """Count frames: predicted and true classes, both (B, H, W) int64."""
        for predicted, true in zip(classes, truth, strict=True):
            joint = torch.bincount((true * self.num_classes + predicted).flatten(), minlength=self.num_classes**2)
            joint = joint.view(self.num_classes, self.num_classes).double()  # (true, predicted)
            iou, f_score, union = _class_scores(joint)
            self.iou_sum += iou
            self.f_sum += f_score
            self.num_frames += (union > 0).double()
            self.confusion += joint

    def per_class_iou(self) -> Tensor:
        """Return IoU by class, (K,) float64; NaN for classes that never occur."""
        return self.iou_sum / self.num_frames

    def per_class_f(self) -> Tensor:
        """Return F by class, (K,) float64; NaN for classes that never occur."""
        return self.f_sum / self.num_frames

    def field_miou(self, *, num_padded: int = 0) -> float:
        """Return mIoU as published: the mean over all K classes, absent ones as 0.

        Args:
            num_padded: frames that AVSBench and AVSegFormer pad short clips with and score as perfect background, which
                lifts class 0. COMBO scores real frames only: 0.
        """
        return self._all_class_mean(self.iou_sum, num_padded)

    def present_miou(self) -> float:
        """Return the mean over the classes that occur."""
        return float(self.per_class_iou()[self.num_frames > 0].mean())

    def field_f(self, *, num_padded: int = 0) -> float:
        """Return F as published: the mean over all K classes, absent ones as 0; `num_padded` as in `field_miou`."""
        return self._all_class_mean(self.f_sum, num_padded)

    def figures(self, *, num_padded: int) -> dict[str, float]:
        """Return the figures.

        Args:
            num_padded: padded frames of the protocol, see `field_miou`.

        Returns:
            `field_miou`, `field_f` (per frame and class, real frames only, as COMBO), `field_miou_padded`,
            `field_f_padded` (as AVSBench and AVSegFormer), `present_miou` (classes that occur), and of the data set's
            confusion matrix, another protocol: `dataset_miou`, `dataset_f`, means over the classes that occur.
        """
        iou, f_score, union = _class_scores(self.confusion)
        occurs = union > 0
        return {
            "field_miou": self.field_miou(),
            "field_f": self.field_f(),
            "field_miou_padded": self.field_miou(num_padded=num_padded),
            "field_f_padded": self.field_f(num_padded=num_padded),
            "present_miou": self.present_miou(),
            "dataset_miou": float(iou[occurs].mean()),
            "dataset_f": float(f_score[occurs].mean()),
        }

    def _all_class_mean(self, sums: Tensor, num_padded: int) -> float:
        extra = torch.zeros_like(sums)
        extra[0] = num_padded
        return float(torch.nan_to_num((sums + extra) / (self.num_frames + extra), nan=0.0).mean())


def _class_scores(joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return IoU, F and union (each (K,)) of a confusion matrix (true, predicted)."""
    hits, in_truth, in_answer = joint.diagonal(), joint.sum(dim=1), joint.sum(dim=0)
    union = in_truth + in_answer - hits
    precision, recall = hits / (in_answer + SEMANTIC_EPSILON), hits / (in_truth + SEMANTIC_EPSILON)
    f_score = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return hits / (union + SEMANTIC_EPSILON), torch.nan_to_num(f_score, nan=0.0), union
