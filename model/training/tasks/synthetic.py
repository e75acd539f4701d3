"""Training task on the synthetic world: clips are rendered in groups, samples shuffled over the steps of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from model.data.shards import CLIPS_PER_SHARD, SAMPLES_PER_CLIP, list_shards, read_shard
from model.data.synthetic import KINDS, TRAINING_SEEDS, WORLD_VERSION, SampleBatch, SceneOptions, sample_batch
from model.data.world.scene import draw_cast
from model.evaluation.synthetic import evaluate_synthetic, segmenter
from model.network.avesformer import AVESFormer
from model.network.config import BACKGROUND, SOUNDING
from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.tasks.synthetic_objective import PreparedBatch, TrainingObjective, prepare
from model.training.tasks.task import seeded

# Streams of `seeded`; the training loop uses 2, the ablation 3.
STREAM_STEP, STREAM_GROUP, STREAM_SHARD = 0, 1, 4
# Clips that are drawn for each one with favoured kinds.
CANDIDATES = 4


class SyntheticTask:
    """`TrainingTask` over seeds of the synthetic world.

    Args:
        config: the run.
        device: device that renders clips and trains the network.
        group: processes that share the samples of a step.

    Raises:
        ValueError: the shard folder is empty, its shards differ in size from the configured groups, or a favoured kind
            does not exist.
    """

    world_version: int | None = WORLD_VERSION
    evaluate_steps = 0
    frozen_steps = 0
    selection = ""

    def __init__(self, config: TrainingConfig, *, device: torch.device, group: ProcessGroup) -> None:
        self.config = config
        self.device = device
        self.group = group
        labels = (BACKGROUND, *KINDS) if config.is_semantic else SOUNDING
        model = AVESFormer(config.model_config(labels=labels))
        self.objective: nn.Module = TrainingObjective(model, num_kinds=len(KINDS)).to(device)
        self.num_steps = config.steps
        self.samples_per_step = config.batch_samples
        self._favoured = _kind_numbers(config.favoured_kinds)
        self._shards = self._find_shards()
        self._rendered: SampleBatch | None = None
        self._rendered_key = (-1, 0)

    def batch(self, step: int, *, size_px: int) -> PreparedBatch:
        """Return this process's augmented samples of a step."""
        generator = seeded(self.config.seed, step, stream=STREAM_STEP, rank=self.group.rank)
        return prepare(self._samples(step, size_px), generator)

    def evaluate(self, model: AVESFormer, *, size_px: int) -> dict[str, Any]:
        """Return figures on clips of the evaluation seeds."""
        return evaluate_synthetic(
            segmenter(model),
            is_semantic=self.config.is_semantic,
            num_clips=self.config.evaluate_clips,
            size_px=size_px,
            device=self.device,
        )

    def describe(self) -> dict[str, Any]:
        """Return the world's version and the number of clips to render."""
        num_groups = -(-self.num_steps // self.config.steps_per_group)
        return {"world_version": self.world_version, "num_clips": num_groups * self.config.clips_per_group}

    def close(self) -> None:
        """Do nothing: this task does not prefetch."""

    def _samples(self, step: int, size_px: int) -> SampleBatch:
        """Return this process's samples of a step, taken from the shuffled group that the step belongs to."""
        config = self.config
        group, turn = divmod(step, config.steps_per_group)
        if (group, size_px) != self._rendered_key:
            self._rendered, self._rendered_key = self._render(group, size_px), (group, size_px)
        order = torch.randperm(
            config.clips_per_group * config.samples_per_clip,
            generator=seeded(config.seed, group, stream=STREAM_GROUP),
        )
        chosen = order[turn * config.batch_samples : (turn + 1) * config.batch_samples]
        own = chosen[self.group.rank :: self.group.size].to(self.device)
        values = {field.name: getattr(self._rendered, field.name)[own] for field in fields(SampleBatch)}
        return SampleBatch(**values)

    def _find_shards(self) -> list[Path]:
        config = self.config
        if not config.shards:
            return []
        if (config.clips_per_group, config.samples_per_clip) != (CLIPS_PER_SHARD, SAMPLES_PER_CLIP):
            raise ValueError(
                f"shards: groups of {config.clips_per_group} clips and {config.samples_per_clip} samples each, "
                f"expected {CLIPS_PER_SHARD} and {SAMPLES_PER_CLIP}, as in a shard"
            )
        return list_shards(Path(config.shards))

    def _render(self, group: int, size_px: int) -> SampleBatch:
        if self._shards:
            generator = seeded(self.config.seed, group, stream=STREAM_SHARD)
            if float(torch.rand(1, generator=generator)) < self.config.shard_share:
                chosen = int(torch.randint(len(self._shards), (1,), generator=generator))
                return read_shard(self._shards[chosen], size_px=size_px, device=self.device)
        seeds = training_seeds(group, self.config, favoured=self._favoured)
        return sample_batch(seeds, samples_per_clip=self.config.samples_per_clip, size_px=size_px, device=self.device)


def training_seeds(group: int, config: TrainingConfig, *, favoured: Sequence[int] = ()) -> list[int]:
    """Return the seeds of a group of clips; no two groups of a run share one.

    Args:
        group: number of the group.
        config: the run: its seed and the number of clips in a group.
        favoured: indices of kinds that are shown more often. The second half of the group then consists of those
            clips of `CANDIDATES` times as many that show most of them.
    """
    num, first = config.clips_per_group, TRAINING_SEEDS * (1 + config.seed)
    if not favoured:
        return list(range(first + group * num, first + (group + 1) * num))
    num_usual = num - num // 2
    num_candidates = CANDIDATES * (num // 2)
    first += group * (num_usual + num_candidates)
    candidates = range(first + num_usual, first + num_usual + num_candidates)
    num_shown = {seed: int(np.isin(draw_cast(seed, SceneOptions()).visible, favoured).sum()) for seed in candidates}
    ranked = sorted(candidates, key=lambda seed: (-num_shown[seed], seed))
    return [*range(first, first + num_usual), *ranked[: num // 2]]


def _kind_numbers(names: str) -> list[int]:
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    unknown = sorted(set(chosen) - set(KINDS))
    if unknown:
        raise ValueError(f"favoured_kinds: got {', '.join(unknown)}, expected some of {', '.join(KINDS)}")
    return [KINDS.index(name) for name in chosen]
