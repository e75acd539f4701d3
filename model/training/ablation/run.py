"""Run an ablation: the seeds that are missing, kept in a folder, and their means.

All rows of a seed are trained in lockstep on the same batches, so they differ in the changed part only and each batch
is made once.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from model.network.config import PROMPT_MODES
from model.network.preprocess import NUM_LOG_MEL_FRAMES, NUM_MEL_BINS

# Batch size of the latency measurement; common in the service.
LATENCY_SAMPLES = 8
LATENCY_ROUNDS = 15

Progress = Callable[[int, int], None]
Figures = dict[str, dict[str, float | None]]


@dataclass(frozen=True)
class Arm:
    """One row of the table.

    Attributes:
        name: name of the row.
        knobs: (`part.field`, value) that differ from the variant.
        is_shuffled: exchange the sounds of frames in training and keep the truth, to measure what frames alone teach.
    """

    name: str
    knobs: tuple[tuple[str, str], ...] = ()
    is_shuffled: bool = False


# `tiny` and `lite` have one convolution block and two transformer blocks; this row has three transformer blocks.
ALL_TRANSFORMER = (("decoder.num_conv_blocks", "0"), ("decoder.num_transformer_blocks", "3"))
# The rows of every plan: the paper's prompt modes, and its decoder without convolutions.
COMMON_ARMS: tuple[Arm, ...] = (
    *(Arm(mode, (("prompt.mode", mode),)) for mode in PROMPT_MODES),
    Arm("all_transformer", ALL_TRANSFORMER),
)


@dataclass(frozen=True)
class Plan(ABC):
    """Settings that all rows share, and what a seed is.

    Attributes:
        arms: rows that there are, by name.
        figures: names of the figures of a row, in the order of the table.
        data: names the data that the rows learn from.
    """

    arms: ClassVar[Mapping[str, Arm]]
    figures: ClassVar[tuple[str, ...]]
    data: ClassVar[Mapping[str, Any]]

    def header(self) -> dict[str, Any]:
        """Return plain values that must be equal in all runs of a folder."""
        return {**self.data, "plan": self.settings()}

    def settings(self) -> dict[str, Any]:
        """Return the settings by name."""
        return dict(vars(self))

    @abstractmethod
    def run_seed(self, arms: Sequence[Arm], *, seed: int, out: Path, progress: Progress | None = None) -> Figures:
        """Train and measure every row with one seed.

        Args:
            arms: rows of the table.
            seed: seed of weights, data and augmentation.
            out: folder for logs.
            progress: called with the numbers of steps done and of all steps.

        Returns:
            Figures by row, those of `figures` and `loss`, the last step's; None where a row has none.
        """


def ablate(
    plan: Plan,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    progress: Callable[[int, int, int], None] | None = None,
) -> dict[str, Any]:
    """Run the seeds that are missing in `out` and summarise all seeds in it.

    Args:
        plan: settings that all rows share; must equal that of the seeds already in `out`.
        arms: names of rows; none for all.
        seeds: seeds to run.
        out: folder of `seedN.json` and the logs. Several processes may run different seeds in it.
        progress: called with the seed and the numbers of steps done and of all steps.

    Returns:
        The plan's header, `seeds` and `arms`: see `summarise`.

    Raises:
        ValueError: no such row, or `out` holds a run of another plan.
    """
    for name in arms:
        if name not in plan.arms:
            raise ValueError(f"arm: got {name!r}, expected one of {', '.join(plan.arms)}")
    chosen = [plan.arms[name] for name in arms or plan.arms]
    out.mkdir(parents=True, exist_ok=True)
    header = plan.header()
    for seed in seeds:
        path = out / f"seed{seed}.json"
        if path.exists():
            continue
        seed_progress = None if progress is None else _for_seed(progress, seed)
        figures = plan.run_seed(chosen, seed=seed, out=out, progress=seed_progress)
        path.write_text(json.dumps({**header, "arms": figures}, indent=2) + "\n")
    kept = dict(_kept(out, header))
    rows = summarise([kept[seed] for seed in sorted(kept)], plan.figures)
    return {**header, "seeds": sorted(kept), "arms": rows}


def summarise(
    seeds: Sequence[Mapping[str, Mapping[str, float | None]]], figures: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return mean and sample deviation over the seeds, by row and figure; figures that no seed has are omitted."""
    summary: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for entry in seeds for name in entry):
        rows = [entry[name] for entry in seeds if name in entry]
        summary[name] = {"num_seeds": len(rows)}
        for figure in figures:
            values = [value for row in rows if (value := row.get(figure)) is not None]
            if values:
                deviation = statistics.stdev(values) if len(values) > 1 else math.nan
                summary[name][figure] = {"mean": statistics.fmean(values), "deviation": deviation}
    return summary


@torch.inference_mode()
def measure_latency(models: Mapping[str, nn.Module], *, size_px: int, has_sound: bool = True) -> dict[str, float]:
    """Return milliseconds per sample of each network in batches of 8: medians over rounds in which they alternate.

    Args:
        models: networks by name.
        size_px: frame height and width.
        has_sound: whether the networks take log-mels beside frames.
    """
    inputs = [torch.zeros(LATENCY_SAMPLES, 3, size_px, size_px)]
    inputs += [torch.zeros(LATENCY_SAMPLES, 1, NUM_LOG_MEL_FRAMES, NUM_MEL_BINS)] if has_sound else []
    took: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(LATENCY_ROUNDS):
        for name, model in models.items():
            started_s = time.perf_counter()
            model(*inputs)
            took[name].append(1e3 * (time.perf_counter() - started_s) / LATENCY_SAMPLES)
    return {name: statistics.median(values) for name, values in took.items()}


def _for_seed(progress: Callable[[int, int, int], None], seed: int) -> Progress:
    return lambda done, total: progress(seed, done, total)


def _kept(out: Path, header: Mapping[str, Any]) -> Iterator[tuple[int, Figures]]:
    for path in out.glob("seed*.json"):
        stored = json.loads(path.read_text())
        if {key: stored.get(key) for key in header} != dict(header):
            raise ValueError(f"{path} is of another plan or world; choose another folder")
        yield int(path.stem.removeprefix("seed")), stored["arms"]
