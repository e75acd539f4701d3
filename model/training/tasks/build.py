"""Build the task of a training run."""

from __future__ import annotations

import torch

from model.training.config import TrainingConfig
from model.training.distributed import ProcessGroup
from model.training.tasks.avsbench import AvsbenchTask
from model.training.tasks.synthetic import SyntheticTask
from model.training.tasks.task import TrainingTask


def build_task(config: TrainingConfig, *, device: torch.device, group: ProcessGroup) -> TrainingTask:
    """Return the task of `config.data`. Raises ValueError: a data folder cannot be used."""
    if config.data == "synthetic":
        return SyntheticTask(config, device=device, group=group)
    if config.data == "pictures":
        # Imported here because only this task needs PyAV and OpenCV.
        from model.training.tasks.pictures import PicturesTask

        return PicturesTask(config, device=device, group=group)
    return AvsbenchTask(config, device=device, group=group)
