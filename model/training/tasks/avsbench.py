"""Training task on AVSBench: labelled frames of shuffled clips, prefetched by threads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from model.data.avsbench.clip import Clip, read_clip
from model.data.avsbench.index import ClipFiles, read_index, read_labels
from model.data.avsbench.subsets import Subset
from model.evaluation.avsbench import evaluate_own_sound
from model.network.avesformer import AVESFormer
from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.tasks.avsbench_objective import ClipBatch, ClipObjective, prepare_clips
from model.training.tasks.task import seeded

STREAM_STEP, STREAM_EPOCH = 0, 1


class AvsbenchTask:
    """`TrainingTask` over an AVSBench tree.

    Step s takes items s * B to (s + 1) * B of the concatenated epochs, each shuffled by (seed, epoch). Every clip
    is used once per epoch, and every step has the same number of clips.

    Args:
        config: the run.
        device: device that the network is trained on.
        group: processes that share the clips of a step.

    Raises:
        ValueError: no root, no clips, or a batch that is not a multiple of the number of processes.
    """

    world_version: int | None = None

    def __init__(self, config: TrainingConfig, *, device: torch.device, group: ProcessGroup) -> None:
        if not config.root:
            raise ValueError(f"{config.data}: name the data folder with --root PATH")
        if config.batch_clips % group.size:
            raise ValueError(f"batch_clips: got {config.batch_clips}, expected a multiple of {group.size} processes")
        self.config = config
        self.device = device
        self.group = group
        self.subset = Subset(config.data.removeprefix("avsbench-"))
        root = Path(config.root)
        self.clips = read_index(root, subset=self.subset, split="train")
        self.validation = read_index(root, subset=self.subset, split="val")
        if not self.clips:
            raise ValueError(f"{config.data}: no training clips are listed under {root}")
        size_px = config.sizes[-1][1]
        model_config = config.model_config(labels=read_labels(root, subset=self.subset))
        model_config = replace(model_config, input_height=size_px, input_width=size_px)
        self.num_classes = max(2, len(model_config.labels))
        self.objective: nn.Module = ClipObjective(AVESFormer(model_config)).to(device)
        steps_per_epoch = len(self.clips) / config.batch_clips
        self.num_steps = ceil(config.epochs * steps_per_epoch) if config.epochs else config.steps
        self.evaluate_steps = max(1, round(config.evaluate_epochs * steps_per_epoch)) if config.evaluate_epochs else 0
        self.frozen_steps = round(config.backbone_frozen_epochs * steps_per_epoch)
        labelled = sum(label is not None for files in self.clips for label in files.labels)
        self.samples_per_step = max(1, round(labelled / len(self.clips) * config.batch_clips))
        self.selection = "field_miou" if self.subset.is_semantic else "field_j_2_clips"
        self._threads = ThreadPoolExecutor(config.loader_threads, thread_name_prefix="avsbench")
        self._ahead: dict[tuple[int, int], list[Future[Clip]]] = {}

    def order(self, step: int) -> list[int]:
        """Return the indices of a step's training clips, over all processes."""
        first = step * self.config.batch_clips
        return [self._item(place) for place in range(first, first + self.config.batch_clips)]

    def batch(self, step: int, *, size_px: int) -> ClipBatch:
        """Return this process's augmented frames of a step, and start reading those of the next."""
        reading = self._ahead.pop((step, size_px), None) or self._read(step, size_px)
        self._ahead = {(step + 1, size_px): self._read(step + 1, size_px)} if step + 1 < self.num_steps else {}
        clips = [future.result() for future in reading]
        return prepare_clips(
            torch.cat([clip.frames for clip in clips]).to(self.device),
            torch.cat([clip.log_mel for clip in clips]).to(self.device),
            torch.cat([clip.truth for clip in clips]).to(self.device),
            augmentation=self.config.augmentation,
            generator=seeded(self.config.seed, step, stream=STREAM_STEP, rank=self.group.rank),
        )

    def evaluate(self, model: AVESFormer, *, size_px: int) -> dict[str, Any]:
        """Return AVSBench's figures on the validation split, with AVSBench's audio windows."""
        clips = self.validation[: self.config.evaluate_clips or None]
        return evaluate_own_sound(model, clips, size_px=size_px, device=self.device) if clips else {}

    def describe(self) -> dict[str, Any]:
        """Return numbers of clips, frames and epochs."""
        return {
            "training_clips": len(self.clips),
            "validation_clips": len(self.validation),
            "clips_per_step": self.config.batch_clips,
            "labelled_frames_per_step": self.samples_per_step,
            "epochs": round(self.num_steps * self.config.batch_clips / len(self.clips), 2),
        }

    def close(self) -> None:
        """Stop prefetching."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _item(self, place: int) -> int:
        epoch, within = divmod(place, len(self.clips))
        order = torch.randperm(len(self.clips), generator=seeded(self.config.seed, epoch, stream=STREAM_EPOCH))
        return int(order[within])

    def _read(self, step: int, size_px: int) -> list[Future[Clip]]:
        own = self.order(step)[self.group.rank :: self.group.size]
        return [self._threads.submit(self._clip, self.clips[number], size_px) for number in own]

    def _clip(self, files: ClipFiles, size_px: int) -> Clip:
        return read_clip(
            files, size_px=size_px, num_classes=self.num_classes, is_cropped=self.subset.is_semantic, only_labelled=True
        )
