"""The ablation of `tiny` on the synthetic world."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from model.data.synthetic import WORLD_VERSION
from model.evaluation.synthetic import FIRST_EVALUATION_SEED, evaluate_synthetic, evaluation_batches, segmenter
from model.network.avesformer import AVESFormer
from model.network.preprocess import normalise_frames, window_log_mel
from model.training.ablation.run import COMMON_ARMS, Arm, Figures, Plan, Progress, measure_latency
from model.training.config import TrainingConfig
from model.training.tasks.synthetic_objective import PreparedBatch
from model.training.tasks.task import seeded
from model.training.trainer import Trainer

STREAM_SHUFFLE = 3
ATTENTION_CLIPS = 8
SHUFFLED = Arm("shuffled_sound", is_shuffled=True)


@dataclass(frozen=True)
class SyntheticPlan(Plan):
    """Settings that all arms share.

    Attributes:
        num_samples: training samples.
        size_px: frame height and width in training and evaluation.
        batch_samples: samples per step.
        num_clips: unseen clips of the evaluation, the same for all arms.
    """

    arms = MappingProxyType({arm.name: arm for arm in (*COMMON_ARMS, SHUFFLED)})
    figures = ("iou_sounding", "wrong_sound_iou", "empty_ok", "latency_ms", "attention_entropy", "attention_distance")
    data = MappingProxyType({"world_version": WORLD_VERSION})

    num_samples: int = 16_000
    size_px: int = 112
    batch_samples: int = 24
    num_clips: int = 120

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps."""
        return max(1, self.num_samples // self.batch_samples)

    def training(self, arm: Arm, *, seed: int) -> TrainingConfig:
        """Return the run of an arm: the shipped recipe's learning rate, with shorter warm-up and weight average."""
        return TrainingConfig(
            name=f"ablation-{arm.name}",
            variant="tiny",
            seed=seed,
            steps=self.num_steps,
            batch_samples=self.batch_samples,
            sizes=((0.0, self.size_px),),
            learning_rate=1.2e-3,
            warmup_steps=self.num_steps // 12,
            ema_decay=0.99,
            knobs=arm.knobs,
        )

    def run_seed(self, arms: Sequence[Arm], *, seed: int, out: Path, progress: Progress | None = None) -> Figures:
        """Train all rows on the same batches, then measure them."""
        trainers = {
            arm.name: Trainer(self.training(arm, seed=seed), out=out / f"seed{seed}" / arm.name) for arm in arms
        }
        task = trainers[arms[0].name].task
        losses: dict[str, float] = {}
        for step in range(self.num_steps):
            batch = task.batch(step, size_px=self.size_px)
            for arm in arms:
                given = exchange_sounds(batch, seed=seed, step=step) if arm.is_shuffled else batch
                losses[arm.name] = trainers[arm.name].step(given)["loss"]
            if progress is not None:
                progress(step + 1, self.num_steps)
        models = {name: trainer.averaged_model() for name, trainer in trainers.items()}
        for trainer in trainers.values():
            trainer.close()
        latencies = measure_latency(models, size_px=self.size_px)
        return {
            name: {**measure(model, self), "latency_ms": latencies[name], "loss": losses[name]}
            for name, model in models.items()
        }


def exchange_sounds(batch: PreparedBatch, *, seed: int, step: int) -> PreparedBatch:
    """Return the batch with its real windows permuted among its frames; quiet windows and truth are unchanged."""
    count = len(batch.frames)
    order = torch.randperm(count, generator=seeded(seed, step, stream=STREAM_SHUFFLE)).to(batch.log_mel.device)
    return replace(batch, log_mel=torch.cat((batch.log_mel[:count][order], batch.log_mel[count:])))


def measure(model: AVESFormer, plan: SyntheticPlan) -> dict[str, float | None]:
    """Return accuracy on unseen clips, and entropy and spread of the attention (means over the transformer blocks)."""
    figures = evaluate_synthetic(segmenter(model), num_clips=plan.num_clips, size_px=plan.size_px)
    batch = next(
        evaluation_batches(ATTENTION_CLIPS, samples_per_clip=3, size_px=plan.size_px, first_seed=FIRST_EVALUATION_SEED)
    )
    blocks = model.attention_statistics(normalise_frames(batch.frames), window_log_mel(batch.windows))
    return {
        **{name: figures[name] for name in ("iou_sounding", "wrong_sound_iou", "empty_ok")},
        "attention_entropy": statistics.fmean(block.entropy for block in blocks),
        "attention_distance": statistics.fmean(block.row_distance for block in blocks),
    }
