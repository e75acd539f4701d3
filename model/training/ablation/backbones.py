"""The visual backbones of `lite` compared: how well do public weights see the kinds of a folder of pictures?

Every row has a backbone with its published weights, which stay as they are, under a pooling head and a linear
classifier of the kinds, which learn. All rows see the same pictures. Nothing is heard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.data.pictures.compose import PictureSource, draw_picture
from model.data.pictures.frames import IGNORED, LabelledFrame, read_picture, squash
from model.data.pictures.index import PicturesIndex, read_index
from model.evaluation.picture_pairs import choose_pictures
from model.evaluation.pictures import LEAST_SAMPLES
from model.network.avesformer import AVESFormer
from model.network.config import BACKGROUND, EFFICIENTNET_DEEPLAB, MOBILENET_DEEPLAB, BackboneConfig
from model.network.kinds import KindExperts, enlarge
from model.network.mobilenet import DeepLabBackbone, PoolingHead
from model.network.preprocess import normalise_frames
from model.network.variants import variant
from model.public_weights.load import load_public_weights
from model.training.ablation.run import Arm, Figures, Plan, Progress, measure_latency
from model.training.tasks.pictures_objective import BACKGROUND_WEIGHT

# Rows: MobileNetV2 as DeepLab trained it for Pascal VOC, with a new pooling head and with the published one; and
# EfficientNet-Lite0 as it was trained for ImageNet.
VOC_HEAD = "mobilenet_v2_voc_head"
MODEL_TYPES = {
    "mobilenet_v2": MOBILENET_DEEPLAB,
    VOC_HEAD: MOBILENET_DEEPLAB,
    "efficientnet_lite0": EFFICIENTNET_DEEPLAB,
}
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
# Random stream of the pictures.
STREAM = 7


@dataclass(frozen=True)
class BackbonesPlan(Plan):
    """Settings that all rows share.

    Attributes:
        root: folder of pictures.
        weights: file or hub id of the public weights, by model type.
        num_samples: training pictures.
        size_px: frame height and width in training and evaluation.
        batch_pictures: pictures per step.
        num_pictures: validation pictures, the same for all rows.
    """

    arms = MappingProxyType({name: Arm(name) for name in MODEL_TYPES})
    figures = ("iou_seen", "latency_ms")
    data = MappingProxyType({"data": "backbones"})

    root: str
    weights: Mapping[str, str] = field(default_factory=dict)
    num_samples: int = 2_400
    size_px: int = 256
    batch_pictures: int = 8
    num_pictures: int = 120

    def __post_init__(self) -> None:
        """Raise ValueError if a model type has no weights."""
        for name in (MOBILENET_DEEPLAB, EFFICIENTNET_DEEPLAB):
            if name not in self.weights:
                raise ValueError(f"backbones: name the public weights with --weights {name}=FILE")

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps."""
        return max(1, self.num_samples // self.batch_pictures)

    def settings(self) -> dict[str, Any]:
        """Return the settings by name, without the places of the files."""
        weights = {name: Path(source).name for name, source in self.weights.items()}
        return vars(self) | {"root": Path(self.root).name, "weights": weights}

    def run_seed(self, arms: Sequence[Arm], *, seed: int, out: Path, progress: Progress | None = None) -> Figures:
        """See `Plan.run_seed`."""
        index = read_index(Path(self.root))
        source = PictureSource.of(index, split="train")
        rows = {arm.name: _Row(arm.name, index, self, seed=seed) for arm in arms}
        for step in range(self.num_steps):
            seeds = [(seed, STREAM, step, number) for number in range(self.batch_pictures)]
            pictures = [draw_picture(source, np.random.default_rng(one), size_px=self.size_px) for one in seeds]
            for row in rows.values():
                row.step(pictures, step)
            if progress is not None:
                progress(step + 1, self.num_steps)
        latencies = measure_latency(
            {name: row.network for name, row in rows.items()}, size_px=self.size_px, has_sound=False
        )
        pictures = [
            squash(read_picture(picture), size_px=self.size_px)
            for picture in choose_pictures(index, split="val", num_pictures=self.num_pictures)
        ]
        return {
            name: {"iou_seen": iou_seen(row.network, pictures), "latency_ms": latencies[name], "loss": row.loss}
            for name, row in rows.items()
        }


class Seer(nn.Module):
    """A backbone with a linear classifier of the kinds: frames (B, 3, H, W) to logits (B, K, H / 16, W / 16)."""

    def __init__(self, backbone: DeepLabBackbone, classifier: nn.Conv2d) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, classifier

    def forward(self, frames: Tensor) -> Tensor:
        """Classify each place."""
        return cast(Tensor, self.classifier(self.backbone(frames)[-1]))


class _Row:
    """A network of a row with its optimizer."""

    def __init__(self, name: str, index: PicturesIndex, plan: BackbonesPlan, *, seed: int) -> None:
        torch.manual_seed(seed)
        shape = variant("lite", labels=(BACKGROUND, *index.kinds))
        model = AVESFormer(replace(shape, backbone=BackboneConfig(MODEL_TYPES[name])))
        load_public_weights(model, backbone=plan.weights[MODEL_TYPES[name]])
        backbone = cast(DeepLabBackbone, model.backbone.network)
        classifier = cast(KindExperts, model.experts).seen
        if name != VOC_HEAD:
            backbone.segmentation_head = PoolingHead(backbone.table.rows[-1].channels)
            classifier.reset_parameters()
        backbone.mobilenet_v2.requires_grad_(False)
        self.network = Seer(backbone, classifier)
        self.loss = math.nan
        self._learned = [value for value in self.network.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(self._learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self._weights = torch.tensor([BACKGROUND_WEIGHT] + [1.0] * len(index.kinds))
        self._num_steps = plan.num_steps

    def step(self, pictures: Sequence[LabelledFrame], step: int) -> None:
        """Run one optimizer step, with a learning rate that falls as half a cosine."""
        for group in self._optimizer.param_groups:
            group["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / self._num_steps))
        frames, classes = _batch(pictures)
        logits = self.network(frames)
        few = classes[:, 2::4, 2::4]  # stride 4, as the masks of `lite`
        loss = F.cross_entropy(enlarge(logits, like=few), few, weight=self._weights, ignore_index=IGNORED)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.loss = float(loss.detach())


@torch.inference_mode()
def iou_seen(network: Seer, pictures: Sequence[LabelledFrame]) -> float | None:
    """Return the mean IoU of the kinds over the pixels of all pictures, of kinds in at least `LEAST_SAMPLES` pictures.

    Args:
        network: classifier of each place.
        pictures: labelled frames of one size.

    Returns:
        None if no kind is in enough pictures.
    """
    num_classes = network.classifier.out_channels
    counts = np.zeros((num_classes, num_classes), np.int64)  # (truth, answer)
    num_pictures = np.zeros(num_classes, np.int64)
    for picture in pictures:
        frames, classes = _batch([picture])
        answer = enlarge(network(frames), like=classes).argmax(dim=1)[0].numpy()
        truth = picture.classes
        num_pictures[np.unique(truth[truth != IGNORED])] += 1
        known = truth != IGNORED
        pairs = truth[known].astype(np.int64) * num_classes + answer[known]
        counts += np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    return _mean_iou(counts, num_pictures >= LEAST_SAMPLES)


def _mean_iou(counts: NDArray[np.int64], is_counted: NDArray[np.bool_]) -> float | None:
    """Return the mean over the kinds that count; class 0, the background, does not."""
    both = counts.diagonal()
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    ious = [both[kind] / either[kind] for kind in range(1, len(counts)) if is_counted[kind]]
    return float(np.mean(ious)) if ious else None


def _batch(pictures: Sequence[LabelledFrame]) -> tuple[Tensor, Tensor]:
    """Return (P, 3, H, W) normalised frames and (P, H, W) int64 classes."""
    frames = torch.from_numpy(np.stack([entry.frame for entry in pictures]))
    classes = torch.from_numpy(np.stack([entry.classes for entry in pictures])).long()
    return normalise_frames(frames), classes
