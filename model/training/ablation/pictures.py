"""The ablation of `lite` on pictures and recordings.

The encoders and the kind experts are those of a checkpoint and stay as they are; each row learns to fuse what they see
and hear from random weights. The row `experts` is the baseline that fusion has to beat: the product of kinds seen and
kinds heard, without fusion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from model.evaluation.picture_pairs import choose_pictures
from model.evaluation.pictures import evaluate_pictures
from model.network.avesformer import AVESFormer
from model.network.variants import variant
from model.network.yamnet import Yamnet
from model.training.ablation.run import COMMON_ARMS, Arm, Figures, Plan, Progress, measure_latency
from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.initial_weights import load_initial_weights
from model.training.losses import semantic_mask_loss
from model.training.tasks.pictures import PicturesTask
from model.training.tasks.pictures_objective import PictureBatch, PicturesObjective, heard_classes

EXPERTS = Arm("experts")
# Parts of the network that a row takes from the checkpoint.
ENCODERS = ("backbone.", "audio.", "experts.")
CLIP_NORM = 1.0


@dataclass(frozen=True)
class PicturesPlan(Plan):
    """Settings that all rows share.

    Attributes:
        root: folder of pictures and recordings.
        init: checkpoint of the encoders, of the same kinds.
        num_samples: training pairs of a picture and a window.
        size_px: frame height and width in training and evaluation.
        batch_pictures: pictures per step, each under three sounds.
        num_pictures: validation pictures, the same for all rows.
        sound_windows: training windows that are mixed before the run.
    """

    arms = MappingProxyType({arm.name: arm for arm in (*COMMON_ARMS, EXPERTS)})
    figures = ("iou_kinds", "two_kinds_iou", "other_sound_iou", "other_empty", "ambience_empty", "latency_ms")
    data = MappingProxyType({"data": "pictures"})

    root: str
    init: str
    num_samples: int = 7_200
    size_px: int = 256
    batch_pictures: int = 8
    num_pictures: int = 120
    sound_windows: int = 6_000

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps."""
        return max(1, self.num_samples // (self.batch_pictures * TrainingConfig.sounds_per_picture))

    def settings(self) -> dict[str, Any]:
        """Return the settings by name, without the place of the data."""
        return super().settings() | {"root": Path(self.root).name, "init": Path(self.init).name}

    def training(self, *, seed: int) -> TrainingConfig:
        """Return the run that the batches are taken from."""
        return TrainingConfig(
            name="ablation-pictures",
            variant="lite",
            data="pictures",
            root=self.root,
            init=self.init,
            is_semantic=True,
            seed=seed,
            steps=self.num_steps,
            sizes=((0.0, self.size_px),),
            learning_rate=1.2e-3,
            weight_decay=0.05,
            warmup_steps=self.num_steps // 12,
            batch_pictures=self.batch_pictures,
            heard_windows=0,
            sound_windows=self.sound_windows,
        )

    def run_seed(self, arms: Sequence[Arm], *, seed: int, out: Path, progress: Progress | None = None) -> Figures:
        """Train all rows on the same features, then measure them and the experts without fusion."""
        config = self.training(seed=seed)
        task = PicturesTask(config, device=torch.device("cpu"), group=ProcessGroup())
        encoders = cast(PicturesObjective, task.objective).model
        load_initial_weights(encoders, config)
        encoders.requires_grad_(False).eval()
        rows = {arm.name: _Row(arm, encoders, config) for arm in arms if arm is not EXPERTS}
        try:
            for step in range(self.num_steps):
                batch = task.batch(step, size_px=self.size_px)
                features = _Encoded.of(encoders, batch, num_audio_layers=config.audio_frozen_layers)
                for row in rows.values():
                    row.step(features, step)
                if progress is not None:
                    progress(step + 1, self.num_steps)
        finally:
            task.close()
        models = {name: row.model.eval() for name, row in rows.items()}
        latencies = measure_latency(models, size_px=self.size_px)
        figures: Figures = {
            name: {**self._measure(model, task), "latency_ms": latencies[name], "loss": rows[name].loss}
            for name, model in models.items()
        }
        if EXPERTS in arms:
            figures[EXPERTS.name] = self._measure(encoders, task, has_only_experts=True)
        return figures

    def _measure(
        self, model: AVESFormer, task: PicturesTask, *, has_only_experts: bool = False
    ) -> dict[str, float | None]:
        pictures = choose_pictures(task.index, split="val", num_pictures=self.num_pictures)
        measured = evaluate_pictures(
            model, task.index, pictures, size_px=self.size_px, has_only_experts=has_only_experts
        ).summary()
        return {name: measured.get(name) for name in self.figures if name != "latency_ms"}


@dataclass(frozen=True)
class _Encoded:
    """A batch as the encoders give it to every row.

    Attributes:
        pyramid: the backbone's maps of P pictures.
        embedding: (S P, embedding_dim); window s P + p belongs to picture p.
    """

    batch: PictureBatch
    pyramid: list[Tensor]
    embedding: Tensor

    @staticmethod
    @torch.no_grad()
    def of(encoders: AVESFormer, batch: PictureBatch, *, num_audio_layers: int) -> _Encoded:
        pyramid = list(encoders.backbone(batch.frames))
        embedding = cast(Yamnet, encoders.audio).late(batch.features, num_layers=num_audio_layers)
        return _Encoded(batch, pyramid, embedding)


class _Row:
    """A network of a row with its optimizer."""

    def __init__(self, arm: Arm, encoders: AVESFormer, config: TrainingConfig) -> None:
        torch.manual_seed(config.seed)
        shape = replace(
            variant(config.variant, labels=encoders.config.labels, knobs=dict(arm.knobs)),
            input_height=encoders.config.input_height,
            input_width=encoders.config.input_width,
        )
        self.model = AVESFormer(shape).train()
        taken = {name: value for name, value in encoders.state_dict().items() if name.startswith(ENCODERS)}
        self.model.load_state_dict(taken, strict=False)
        for part in (self.model.backbone, self.model.audio, cast(nn.Module, self.model.experts)):
            part.requires_grad_(False).eval()
        self._learned = [value for value in self.model.parameters() if value.requires_grad]
        self._optimizer = torch.optim.AdamW(self._learned, lr=0.0, weight_decay=config.weight_decay)
        self._config = config
        self.loss = math.nan

    def step(self, given: _Encoded, step: int) -> None:
        """Run one optimizer step: linear warm-up, then a half cosine."""
        config = self._config
        share = min(1.0, (step + 1) / max(1, config.warmup_steps))
        rate = config.learning_rate * share * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batch = given.batch
        visual = self.model.see(batch.frames, given.pyramid)
        logits = self.model.fuse(visual.repeat(batch.num_sounds), given.embedding).float()
        step_px = batch.classes.shape[1] // logits.shape[2]
        classes = batch.classes[:, step_px // 2 :: step_px, step_px // 2 :: step_px]
        truth = heard_classes(classes.repeat(batch.num_sounds, 1, 1), batch.heard)
        loss = semantic_mask_loss(logits, truth, torch.ones(len(logits)))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._learned, CLIP_NORM)
        self._optimizer.step()
        self.loss = float(loss.detach())
