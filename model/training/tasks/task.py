"""The interface between the training loop and a data set: batches by step, a loss, an evaluation."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.network.avesformer import AVESFormer


class Objective(Protocol):
    """A network together with its loss."""

    model: AVESFormer

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Return scalar losses by name; `loss` is the one to minimise."""


class TrainingTask(Protocol):
    """Data, loss and evaluation of one kind of run.

    Attributes:
        objective: the module to train; its `model` is saved in checkpoints.
        world_version: version of the synthetic world, None for other data.
        num_steps: optimizer steps of the whole run.
        samples_per_step: approximate number of frames per step, over all processes.
        evaluate_steps: steps between evaluations, 0 to evaluate by time only.
        frozen_steps: number of first steps in which the visual backbone is frozen.
        selection: name of the figure whose highest value selects best.safetensors, or empty.
    """

    objective: nn.Module
    world_version: int | None
    num_steps: int
    samples_per_step: int
    evaluate_steps: int
    frozen_steps: int
    selection: str

    def batch(self, step: int, *, size_px: int) -> Any:
        """Return the objective's input for a step. It depends on the step number only, not on earlier calls."""
        ...

    def evaluate(self, model: AVESFormer, *, size_px: int) -> dict[str, Any]:
        """Return figures of a network on clips outside the training set."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return the numbers of clips and steps that `--dry-run` prints."""
        ...

    def close(self) -> None:
        """Stop prefetching."""
        ...


def seeded(seed: int, number: int, *, stream: int, rank: int = 0) -> torch.Generator:
    """Return an independent generator for each (seed, stream, rank, number).

    Args:
        seed: of the run.
        number: step, epoch or group.
        stream: purpose of the draws; each purpose has its own number below 16.
        rank: process, below 256.
    """
    return torch.Generator().manual_seed((seed << 40) + (stream << 36) + (rank << 28) + number)
