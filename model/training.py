"""The training loop: seeds in, checkpoints and a log of figures out.

Everything random in a step follows from (seed, step), so a resumed run continues exactly where it stood.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from model.avesformer import AVESFormer
from model.checkpoint import save_checkpoint
from model.config import BACKGROUND, ModelConfig, variant
from model.data.synthetic import KINDS, TRAINING_SEEDS, WORLD_VERSION, SampleBatch, sample_batch
from model.evaluation import evaluate_synthetic, probabilities
from model.objective import TrainingObjective, prepare
from model.preprocess import normalise_frames, window_log_mel

FINAL_RATE_SHARE = 0.01  # the cosine ends at this share of the peak learning rate
RESUME_NAME = "resume.pt"
CHECKPOINT_NAME = "model.safetensors"
LOG_NAME = "log.jsonl"

AmpMode = Literal["auto", "off", "bf16", "fp16"]
Clock = Callable[[], float]
Report = Callable[[dict[str, Any]], None]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to try."""


@dataclass(frozen=True)
class TrainingConfig:
    """A named run.

    Attributes:
        name: of the recipe.
        variant: model variant.
        is_semantic: one label per kind instead of one for all.
        seed: of the weights, the order and the augmentation.
        steps: optimizer steps of the whole run.
        max_minutes: end (with the schedule complete) after this wall time; 0 for no limit.
        batch_samples: samples of a step.
        clips_per_group: clips rendered at once; their samples are shuffled over the next steps.
        samples_per_clip: samples of each, which share the cost of its sound.
        sizes: (progress from, frame size in pixels), progress in [0, 1).
        learning_rate: peak.
        weight_decay: of matrices and kernels; norms, biases and prompts have none.
        warmup_steps: linear warm-up.
        clip_norm: gradient clipping.
        ema_decay: of the averaged weights that are saved.
        amp: `auto` (bf16 on CUDA, off on CPU), `off`, `bf16` or `fp16`.
        device: `auto`, `cpu` or `cuda`.
        save_minutes: between checkpoints.
        evaluate_minutes: between evaluations on unseen clips.
        evaluate_clips: clips of such an evaluation.
    """

    name: str
    variant: str
    is_semantic: bool = False
    seed: int = 0
    steps: int = 10_000
    max_minutes: float = 0.0
    batch_samples: int = 24
    clips_per_group: int = 16
    samples_per_clip: int = 6
    sizes: tuple[tuple[float, int], ...] = ((0.0, 128),)
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup_steps: int = 300
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    amp: AmpMode = "auto"
    device: str = "auto"
    save_minutes: float = 5.0
    evaluate_minutes: float = 5.0
    evaluate_clips: int = 64

    @property
    def steps_per_group(self) -> int:
        """Steps that one rendered group of clips lasts."""
        return max(1, self.clips_per_group * self.samples_per_clip // self.batch_samples)

    def model_config(self) -> ModelConfig:
        """Configuration of the network to train."""
        return variant(self.variant, labels=(BACKGROUND, *KINDS)) if self.is_semantic else variant(self.variant)


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        step: optimizer steps done.
        elapsed_s: wall time spent, over all resumes.
    """

    step: int = 0
    elapsed_s: float = 0.0


class Trainer:
    """Trains one network.

    Args:
        config: the run.
        out: folder of the checkpoint, the log and the resume file.
        clock: monotonic seconds.
    """

    def __init__(self, config: TrainingConfig, *, out: Path, clock: Clock = time.monotonic) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.out = out
        self.clock = clock
        self.device = torch.device(_choose_device(config.device))
        self.objective = TrainingObjective(AVESFormer(config.model_config()), num_kinds=len(KINDS)).to(self.device)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.objective, config.weight_decay), lr=0.0)
        self.average = {name: value.clone() for name, value in self.objective.model.state_dict().items()}
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._amp_dtype() is torch.float16)
        self.position = Position()
        self._group: SampleBatch | None = None
        self._group_key = (-1, 0)

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by time, whichever is further, in [0, 1]."""
        by_time = self.position.elapsed_s / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return min(1.0, max(self.position.step / self.config.steps, by_time))

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine over the whole run."""
        warmup = min(1.0, (self.position.step + 1) / max(1, self.config.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return self.config.learning_rate * warmup * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * cosine)

    def size_px(self) -> int:
        """Frame size at this point of the run."""
        return [size for start, size in self.config.sizes if self.progress >= start][-1]

    def run(self, report: Report | None = None) -> None:
        """Train to the end, logging and saving on the way.

        Args:
            report: called after every step with its losses and after evaluations with their figures.

        Raises:
            TrainingError: a loss that is not finite.
        """
        saved_s = evaluated_s = self.position.elapsed_s
        while self.progress < 1.0:
            losses = self.step()
            if report is not None:
                report(losses)
            if self.position.elapsed_s - evaluated_s >= 60 * self.config.evaluate_minutes:
                self.evaluate(report)
                evaluated_s = self.position.elapsed_s
            if self.position.elapsed_s - saved_s >= 60 * self.config.save_minutes:
                self.save()
                saved_s = self.position.elapsed_s
        self.save(figures=self.evaluate(report))

    def step(self) -> dict[str, Any]:
        """One optimizer step.

        Returns:
            Losses, learning rate, step and samples per second.

        Raises:
            TrainingError: the loss is not finite.
        """
        started_s = self.clock()
        size_px, rate = self.size_px(), self.learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = prepare(self._samples(size_px), self._generator(self.position.step, stream=0))
        self.objective.train()
        with self._autocast():
            losses = self.objective(batch)
        self._check_finite(losses)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["loss"]).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._update_average()
        self.position.step += 1
        took_s = self.clock() - started_s
        self.position.elapsed_s += took_s
        numbers = {name: round(float(value.detach()), 5) for name, value in losses.items()}
        rate_per_s = self.config.batch_samples / took_s if took_s > 0 else 0.0
        return {"step": self.position.step, **numbers, "lr": rate, "size_px": size_px, "samples_per_s": rate_per_s}

    def evaluate(self, report: Report | None = None) -> dict[str, Any]:
        """Figures of the averaged weights (and of the latest) on unseen clips, appended to the log."""
        started_s = self.clock()
        figures: dict[str, Any] = {
            "step": self.position.step,
            "samples": self.position.step * self.config.batch_samples,
            "minutes": round(self.position.elapsed_s / 60, 2),
            "size_px": self.size_px(),
            "lr": self.learning_rate(),
        }
        if not self.config.is_semantic:
            figures |= self._measure(self.average)
            figures["latest_iou_sounding"] = self._measure(self.objective.model.state_dict())["iou_sounding"]
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / LOG_NAME).open("a") as log:
            log.write(json.dumps(figures) + "\n")
        if report is not None:
            report(figures)
        self.position.elapsed_s += self.clock() - started_s
        return figures

    def save(self, figures: dict[str, Any] | None = None) -> None:
        """Write the checkpoint (averaged weights) and the resume file."""
        self.out.mkdir(parents=True, exist_ok=True)
        summary = {
            "recipe": asdict(self.config),
            "steps": self.position.step,
            "samples": self.position.step * self.config.batch_samples,
            "minutes": round(self.position.elapsed_s / 60, 1),
            "torch": torch.__version__,
            "figures": figures or {},
        }
        save_checkpoint(
            self.out / CHECKPOINT_NAME,
            config=self.objective.model.config,
            state=self.average,
            world_version=WORLD_VERSION,
            training=summary,
        )
        state = {
            "recipe": json.dumps(asdict(self.config)),
            "position": asdict(self.position),
            "objective": self.objective.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        partial = self.out / (RESUME_NAME + ".partial")
        torch.save(state, partial)
        partial.replace(self.out / RESUME_NAME)

    def resume(self) -> None:
        """Take up the run in `out`.

        Raises:
            TrainingError: nothing there, or another model.
        """
        path = self.out / RESUME_NAME
        if not path.exists():
            raise TrainingError(f"nothing to resume: {path} does not exist")
        state = torch.load(path, map_location=self.device, weights_only=True)
        try:
            self.objective.load_state_dict(state["objective"])
        except RuntimeError as error:
            raise TrainingError(f"{path} belongs to another model: {str(error).splitlines()[0]}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.average = state["average"]
        self.position = Position(**state["position"])

    def _samples(self, size_px: int) -> SampleBatch:
        """The samples of this step, out of the shuffled group that it belongs to."""
        group, turn = divmod(self.position.step, self.config.steps_per_group)
        if (group, size_px) != self._group_key:
            self._group, self._group_key = self._render(group, size_px), (group, size_px)
        order = torch.randperm(
            self.config.clips_per_group * self.config.samples_per_clip, generator=self._generator(group, stream=1)
        )
        chosen = order[turn * self.config.batch_samples : (turn + 1) * self.config.batch_samples].to(self.device)
        values = {field.name: getattr(self._group, field.name)[chosen] for field in fields(SampleBatch)}
        return SampleBatch(**values)

    def _render(self, group: int, size_px: int) -> SampleBatch:
        first = TRAINING_SEEDS * (1 + self.config.seed) + group * self.config.clips_per_group
        seeds = range(first, first + self.config.clips_per_group)
        return sample_batch(seeds, samples_per_clip=self.config.samples_per_clip, size_px=size_px, device=self.device)

    def _generator(self, number: int, *, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.config.seed << 40) + (stream << 36) + number)

    def _amp_dtype(self) -> torch.dtype | None:
        choice = self.config.amp
        if choice == "auto":
            choice = "bf16" if self.device.type == "cuda" else "off"
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[choice]

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = self._amp_dtype()
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def _check_finite(self, losses: dict[str, Tensor]) -> None:
        if torch.isfinite(losses["loss"]):
            return
        parts = ", ".join(f"{name} {float(value.detach()):.3g}" for name, value in losses.items())
        raise TrainingError(
            f"loss is not finite at step {self.position.step} ({parts}). The last checkpoint is untouched; resume it "
            "with a lower learning_rate or with amp=off."
        )

    def _update_average(self) -> None:
        # The decay climbs to its end value, so that the first random weights are soon forgotten.
        step = self.position.step
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.objective.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def _measure(self, state: dict[str, Tensor]) -> dict[str, float | int | None]:
        model = AVESFormer(self.objective.model.config).to(self.device)
        model.load_state_dict(state)
        return evaluate_synthetic(segmenter(model.eval()), num_clips=self.config.evaluate_clips, size_px=self.size_px())


def segmenter(model: AVESFormer) -> Callable[[Tensor, Tensor], Tensor]:
    """A binary network as the function that `evaluate_synthetic` takes."""

    @torch.inference_mode()
    def segment(frames: Tensor, windows: Tensor) -> Tensor:
        logits = model(normalise_frames(frames), window_log_mel(windows))
        return probabilities(logits, height=frames.shape[1], width=frames.shape[2])

    return segment


def _choose_device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _parameter_groups(module: nn.Module, weight_decay: float) -> Iterator[dict[str, Any]]:
    named = list(module.named_parameters())
    is_matrix = {name: value.ndim >= 2 and not name.endswith("prompts") for name, value in named}
    yield {"params": [value for name, value in named if is_matrix[name]], "weight_decay": weight_decay}
    yield {"params": [value for name, value in named if not is_matrix[name]], "weight_decay": 0.0}
