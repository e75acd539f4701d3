"""Training task on the synthetic world: clips are rendered in groups, samples shuffled over the steps of a group."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.data.shards import CLIPS_PER_SHARD, SAMPLES_PER_CLIP, list_shards, read_shard
from model.data.synthetic import KINDS, TRAINING_SEEDS, WORLD_VERSION, SampleBatch, sample_batch
from model.evaluation.synthetic import evaluate_synthetic, segmenter
from model.network.avesformer import AVESFormer
from model.network.config import BACKGROUND, SOUNDING
from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.tasks.synthetic_objective import PreparedBatch, TrainingObjective, prepare
from model.training.tasks.task import seeded

# Streams of `seeded`; the training loop uses 2, the ablation 3.
STREAM_STEP, STREAM_GROUP, STREAM_SHARD = 0, 1, 4


class SyntheticTask:
    """`TrainingTask` over seeds of the synthetic world.

    Args:
        config: the run.
        device: device that renders clips and trains the network.
        group: processes that share the samples of a step.

    Raises:
        ValueError: the shard folder is empty, or its shards differ in size from the configured groups.
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
        first = TRAINING_SEEDS * (1 + self.config.seed) + group * self.config.clips_per_group
        seeds = range(first, first + self.config.clips_per_group)
        return sample_batch(seeds, samples_per_clip=self.config.samples_per_clip, size_px=size_px, device=self.device)
