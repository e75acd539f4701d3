"""`avesformer train RECIPE --dry-run`: parameters, memory and time of a run, measured on a few real steps."""

from __future__ import annotations

import resource
import sys
from typing import Any

import torch

from model.network.avesformer import parameter_report
from model.training.trainer import Trainer

NUM_MEASURED_STEPS = 2


def plan(trainer: Trainer) -> dict[str, Any]:
    """Describe a run. This runs steps and closes the trainer, which must not be used afterwards.

    Returns:
        The recipe, parameters by part, data, steps, memory in MB (of the weights, of the whole of training, and the
        peak that was measured) and the estimated minutes, from the last of a few real steps at the first frame size.
    """
    config, task = trainer.config, trainer.task
    steps = [trainer.step() for _ in range(1 + NUM_MEASURED_STEPS)]
    speed = max(step["samples_per_s"] for step in steps[1:])
    minutes = task.num_steps * task.samples_per_step / speed / 60
    trainer.close()
    return {
        "recipe": config.summary() | {"root": config.root},
        "device": str(trainer.device),
        "processes": trainer.group.size,
        "parameters": parameter_report(trainer.model),
        "initial_weights": trainer.initial,
        "data": task.describe(),
        "steps": task.num_steps,
        "memory_mb": _memory(trainer),
        "samples_per_s_at_first_size": round(speed, 1),
        "estimated_minutes": round(min(minutes, config.max_minutes or minutes), 1),
    }


def _memory(trainer: Trainer) -> dict[str, float]:
    parameters = list(trainer.objective.parameters())
    weights = sum(value.numel() * value.element_size() for value in parameters)
    trained = sum(value.numel() * value.element_size() for value in parameters if value.requires_grad)
    # The averaged copy; a gradient and two moments for each weight that is trained.
    state = 2 * weights + 3 * trained
    if trainer.device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated(trainer.device))
    else:
        # ru_maxrss is in kilobytes, on macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
    return {
        "weights": round(weights / 1e6, 1),
        "weights_average_gradients_moments": round(state / 1e6, 1),
        "measured_peak": round(peak / 1e6, 1),
    }
