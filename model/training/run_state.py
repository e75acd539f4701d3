"""Saving and loading the state of a run: weights, averages, optimizer and position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from model.training.config import Position, TrainingConfig, TrainingError
from model.training.state_files import StateFilesError, load_state, save_state

RESUME_NAME = "resume"


class Run(Protocol):
    """The parts of a trainer that are saved."""

    config: TrainingConfig
    device: torch.device
    position: Position
    objective: nn.Module
    average: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler


def save_run(folder: Path, run: Run) -> None:
    """Write a run's state to a folder atomically."""
    weights = run.objective.state_dict()
    # Averages that equal their weights (a frozen branch, most of the bytes) are not stored twice.
    average = {name: value for name, value in run.average.items() if not torch.equal(value, weights[f"model.{name}"])}
    optimizer = run.optimizer.state_dict()
    moments = {
        f"optimizer.{number}.{name}": value
        for number, entry in optimizer["state"].items()
        for name, value in entry.items()
    }
    tensors = {
        **{f"objective.{name}": value for name, value in weights.items()},
        **{f"average.{name}": value for name, value in average.items()},
        **moments,
    }
    values = {
        "recipe": asdict(run.config),
        "position": asdict(run.position),
        "groups": optimizer["param_groups"],
        "scaler": run.scaler.state_dict(),
    }
    save_state(folder, tensors=tensors, values=values)


def load_run(out: Path, run: Run) -> Position:
    """Load a saved state into a trainer.

    Args:
        out: folder of the run.
        run: a trainer of the same model; its weights, averages, optimizer and scaler are replaced.

    Returns:
        The run's position.

    Raises:
        TrainingError: there is no saved state, it is damaged or it belongs to another model.
    """
    folder = out / RESUME_NAME
    if not folder.exists():
        raise TrainingError(f"nothing to resume: {folder} does not exist")
    try:
        tensors, values = load_state(folder)
    except StateFilesError as error:
        raise TrainingError(str(error)) from error
    return _take(run, _part(tensors, "objective."), _part(tensors, "average."), _optimizer(tensors, values), values)


def _take(
    run: Run,
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizer: dict[str, Any],
    values: Mapping[str, Any],
) -> Position:
    try:
        run.objective.load_state_dict(weights)
        run.optimizer.load_state_dict(optimizer)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the saved run belongs to another model: {str(error).splitlines()[0]}") from error
    run.scaler.load_state_dict(dict(values["scaler"]))
    now = run.objective.state_dict()
    run.average = {name: average.get(name, now[f"model.{name}"]).to(run.device, copy=True) for name in run.average}
    return Position(**values["position"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    groups = [{**group, "betas": tuple(group["betas"])} for group in values["groups"]]
    return {"state": state, "param_groups": groups}
