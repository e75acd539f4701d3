"""What the training loop asks of a data set: batches by step, the loss, figures of a model."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.network.avesformer import AVESFormer


class Objective(Protocol):
    """A network with its loss."""

    model: AVESFormer

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        """Losses by name; `loss` is minimised."""


class Course(Protocol):
    """Data, loss and figures of one kind of run.

    Attributes:
        objective: the module to train; its `model` is saved in checkpoints.
        world_version: of the synthetic world, None for other data.
        num_steps: optimizer steps of the whole run.
        samples_per_step: about how many frames a step sees, over all processes.
        evaluate_steps: steps between evaluations, 0 for none by steps.
        frozen_steps: steps during which the visual backbone stands still.
        selection: the figure whose highest value is kept as best.safetensors, or empty.
    """

    objective: nn.Module
    world_version: int | None
    num_steps: int
    samples_per_step: int
    evaluate_steps: int
    frozen_steps: int
    selection: str

    def batch(self, step: int, *, size_px: int) -> Any:
        """What the objective takes at a step; it follows from the step alone, whatever came before."""
        ...

    def evaluate(self, model: AVESFormer, *, size_px: int) -> dict[str, Any]:
        """Figures of a network on clips that are not trained on."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a plan says about the data."""
        ...

    def close(self) -> None:
        """Stop reading ahead."""
        ...


def seeded(seed: int, number: int, *, stream: int, rank: int = 0) -> torch.Generator:
    """A generator of its own for every (seed, stream, rank, number): what is drawn follows from these alone."""
    return torch.Generator().manual_seed((seed << 40) + (stream << 36) + (rank << 28) + number)
