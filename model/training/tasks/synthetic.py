"""Training on the synthetic world: clips rendered in groups, samples shuffled over the group's steps."""

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
from model.training.distributed import Processes
from model.training.tasks.synthetic_objective import PreparedBatch, TrainingObjective, prepare
from model.training.tasks.task import seeded

STREAM_STEP, STREAM_GROUP, STREAM_SHARD = 0, 1, 4  # 2 is the training loop's, 3 the ablation's


class SyntheticCourse:
    """A `Course` over seeds.

    Args:
        config: the run.
        device: where clips are rendered and the network is trained.
        processes: samples of a step are dealt out to them.

    Raises:
        ValueError: a folder without shards, or groups of another size than theirs.
    """

    world_version: int | None = WORLD_VERSION
    evaluate_steps = 0
    frozen_steps = 0
    selection = ""

    def __init__(self, config: TrainingConfig, *, device: torch.device, processes: Processes) -> None:
        self.config = config
        self.device = device
        self.processes = processes
        labels = (BACKGROUND, *KINDS) if config.is_semantic else SOUNDING
        model = AVESFormer(config.model_config(labels=labels))
        self.objective: nn.Module = TrainingObjective(model, num_kinds=len(KINDS)).to(device)
        self.num_steps = config.steps
        self.samples_per_step = config.batch_samples
        self._shards = self._find_shards()
        self._group: SampleBatch | None = None
        self._group_key = (-1, 0)

    def batch(self, step: int, *, size_px: int) -> PreparedBatch:
        """This process's augmented samples of a step."""
        generator = seeded(self.config.seed, step, stream=STREAM_STEP, rank=self.processes.rank)
        return prepare(self._samples(step, size_px), generator)

    def evaluate(self, model: AVESFormer, *, size_px: int) -> dict[str, Any]:
        """Figures on clips of the evaluation seeds."""
        return evaluate_synthetic(
            segmenter(model),
            is_semantic=self.config.is_semantic,
            num_clips=self.config.evaluate_clips,
            size_px=size_px,
            device=self.device,
        )

    def describe(self) -> dict[str, Any]:
        """The world's version and the clips that will be rendered."""
        num_groups = -(-self.num_steps // self.config.steps_per_group)
        return {"world_version": self.world_version, "num_clips": num_groups * self.config.clips_per_group}

    def close(self) -> None:
        """Nothing is read ahead."""

    def _samples(self, step: int, size_px: int) -> SampleBatch:
        """The samples of this step, out of the shuffled group that it belongs to."""
        config = self.config
        group, turn = divmod(step, config.steps_per_group)
        if (group, size_px) != self._group_key:
            self._group, self._group_key = self._render(group, size_px), (group, size_px)
        order = torch.randperm(
            config.clips_per_group * config.samples_per_clip,
            generator=seeded(config.seed, group, stream=STREAM_GROUP),
        )
        chosen = order[turn * config.batch_samples : (turn + 1) * config.batch_samples]
        own = chosen[self.processes.rank :: self.processes.size].to(self.device)
        values = {field.name: getattr(self._group, field.name)[own] for field in fields(SampleBatch)}
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
