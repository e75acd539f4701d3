"""Ablation: short training runs of `tiny` with one part changed at a time, with several seeds each.

All arms of a seed are trained in lockstep on the same batches, so they differ in the changed part only and each batch
is rendered once.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.data.synthetic import WORLD_VERSION
from model.evaluation.synthetic import FIRST_EVALUATION_SEED, evaluate_synthetic, evaluation_batches, segmenter
from model.network.avesformer import AVESFormer
from model.network.config import PROMPT_MODES
from model.network.preprocess import normalise_frames, window_log_mel
from model.training.config import TrainingConfig
from model.training.tasks.synthetic_objective import PreparedBatch
from model.training.tasks.task import seeded
from model.training.trainer import Trainer

STREAM_SHUFFLE = 3
ATTENTION_CLIPS = 8
# Batch size of the latency measurement; common in the service.
LATENCY_SAMPLES = 8
LATENCY_ROUNDS = 15
FIGURES = ("iou_sounding", "wrong_sound_iou", "empty_ok", "latency_ms", "attention_entropy", "attention_distance")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        name: name of the row.
        knobs: (`part.field`, value) that differ from `tiny`.
        is_shuffled: exchange the sounds of frames in training and keep the truth, to measure what frames alone teach.
    """

    name: str
    knobs: tuple[tuple[str, str], ...] = ()
    is_shuffled: bool = False


# `tiny` has one convolution block and two transformer blocks; this arm has three transformer blocks.
ALL_TRANSFORMER = (("decoder.num_conv_blocks", "0"), ("decoder.num_transformer_blocks", "3"))
ARMS: Mapping[str, Arm] = {
    arm.name: arm
    for arm in (
        *(Arm(mode, (("prompt.mode", mode),)) for mode in PROMPT_MODES),
        Arm("all_transformer", ALL_TRANSFORMER),
        Arm("shuffled_sound", is_shuffled=True),
    )
}


@dataclass(frozen=True)
class AblationPlan:
    """Settings that all arms share.

    Attributes:
        num_samples: training samples.
        size_px: frame height and width in training and evaluation.
        batch_samples: samples per step.
        num_clips: unseen clips of the evaluation, the same for all arms.
    """

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


def run_seed(
    plan: AblationPlan, arms: Sequence[Arm], *, seed: int, out: Path, progress: Progress | None = None
) -> dict[str, dict[str, float | None]]:
    """Train and measure every arm with one seed.

    Args:
        plan: settings that all arms share.
        arms: rows of the table.
        seed: seed of weights, clips and augmentation.
        out: folder for the runs' logs.
        progress: called with the numbers of steps done and of all steps.

    Returns:
        Figures by arm: those of `FIGURES` (None where an arm has none) and `loss`, the last step's.
    """
    trainers = {arm.name: Trainer(plan.training(arm, seed=seed), out=out / f"seed{seed}" / arm.name) for arm in arms}
    task = trainers[arms[0].name].task
    losses: dict[str, float] = {}
    for step in range(plan.num_steps):
        batch = task.batch(step, size_px=plan.size_px)
        for arm in arms:
            given = exchange_sounds(batch, seed=seed, step=step) if arm.is_shuffled else batch
            losses[arm.name] = trainers[arm.name].step(given)["loss"]
        if progress is not None:
            progress(step + 1, plan.num_steps)
    models = {name: trainer.averaged_model() for name, trainer in trainers.items()}
    for trainer in trainers.values():
        trainer.close()
    latencies = measure_latency(models, size_px=plan.size_px)
    return {
        name: {**measure(model, plan), "latency_ms": latencies[name], "loss": losses[name]}
        for name, model in models.items()
    }


def exchange_sounds(batch: PreparedBatch, *, seed: int, step: int) -> PreparedBatch:
    """Return the batch with its real windows permuted among its frames; quiet windows and truth are unchanged."""
    count = len(batch.frames)
    order = torch.randperm(count, generator=seeded(seed, step, stream=STREAM_SHUFFLE)).to(batch.log_mel.device)
    return replace(batch, log_mel=torch.cat((batch.log_mel[:count][order], batch.log_mel[count:])))


def measure(model: AVESFormer, plan: AblationPlan) -> dict[str, float | None]:
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


@torch.inference_mode()
def measure_latency(models: Mapping[str, AVESFormer], *, size_px: int) -> dict[str, float]:
    """Return milliseconds per sample of each network in batches of 8: medians over rounds in which they alternate."""
    frames = torch.zeros(LATENCY_SAMPLES, 3, size_px, size_px)
    log_mel = torch.zeros(LATENCY_SAMPLES, 1, 96, 64)
    took: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(LATENCY_ROUNDS):
        for name, model in models.items():
            started_s = time.perf_counter()
            model(frames, log_mel)
            took[name].append(1e3 * (time.perf_counter() - started_s) / LATENCY_SAMPLES)
    return {name: statistics.median(values) for name, values in took.items()}


def summarise(seeds: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, dict[str, Any]]:
    """Return mean and sample deviation over the seeds, by arm and figure; figures that no seed has are omitted."""
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for figures in seeds for name in figures):
        rows = [figures[name] for figures in seeds if name in figures]
        summary[name] = {"num_seeds": len(rows)}
        for figure in FIGURES:
            values = [value for row in rows if (value := row[figure]) is not None]
            if values:
                deviation = statistics.stdev(values) if len(values) > 1 else math.nan
                summary[name][figure] = {"mean": statistics.fmean(values), "deviation": deviation}
    return summary


def ablate(
    plan: AblationPlan,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run the seeds that are missing in `out` and summarise all seeds in it.

    Args:
        plan: settings that all arms share; must equal that of the seeds already in `out`.
        arms: names from `ARMS`.
        seeds: seeds to run.
        out: folder of `seedN.json` and the logs. Several processes may run different seeds in it.
        progress: called with the seed and the numbers of steps done and of all steps.

    Returns:
        `plan`, `world_version`, `seeds` and `arms`: see `summarise`.

    Raises:
        ValueError: no such arm, or `out` holds a run of another plan.
    """
    for name in arms:
        if name not in ARMS:
            raise ValueError(f"arm: got {name!r}, expected one of {', '.join(ARMS)}")
    out.mkdir(parents=True, exist_ok=True)
    header = {"world_version": WORLD_VERSION, "plan": vars(plan)}
    for seed in seeds:
        path = out / f"seed{seed}.json"
        if path.exists():
            continue
        seed_progress = None if progress is None else _for_seed(progress, seed)
        figures = run_seed(plan, [ARMS[name] for name in arms], seed=seed, out=out, progress=seed_progress)
        path.write_text(json.dumps({**header, "arms": figures}, indent=2) + "\n")
    kept = dict(_kept(out, header))
    return {**header, "seeds": sorted(kept), "arms": summarise([kept[seed] for seed in sorted(kept)])}


def _for_seed(progress: Callable[[int, int, int], None], seed: int) -> Progress:
    return lambda done, total: progress(seed, done, total)


def _kept(out: Path, header: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, dict[str, float | None]]]]:
    for path in out.glob("seed*.json"):
        stored = json.loads(path.read_text())
        if {key: stored[key] for key in header} != dict(header):
            raise ValueError(f"{path} is of another plan or world; choose another folder")
        yield int(path.stem.removeprefix("seed")), stored["arms"]
