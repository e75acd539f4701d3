"""The training loop: a course of batches in, checkpoints and a log of figures out.

Everything random in a step follows from (seed, step, process), so a resumed run continues exactly where it stood.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.training.config import Position, TrainingConfig, TrainingError
from model.training.distributed import Processes
from model.training.initial_weights import load_initial_weights
from model.training.run_log import RunLog
from model.training.run_state import RESUME_NAME, load_run, save_run
from model.training.schedule import parameter_groups, rate_share
from model.training.tasks.avsbench import AvsbenchCourse
from model.training.tasks.synthetic import SyntheticCourse
from model.training.tasks.synthetic_objective import PreparedBatch
from model.training.tasks.task import Course, seeded

CHECKPOINT_NAME = "model.safetensors"
BEST_NAME = "best.safetensors"
STREAM_GLOBAL = 2  # of torch's own generator, which dropped paths draw from

Clock = Callable[[], float]
Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trains one network.

    Args:
        config: the run.
        out: folder of the checkpoint, the log and the state to resume from.
        clock: monotonic seconds.
        processes: this process among those of the run.

    Raises:
        ValueError: a variant, knob, data folder or file of weights that cannot be used.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        out: Path,
        clock: Clock = time.monotonic,
        processes: Processes | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.out = out
        self.clock = clock
        self.processes = processes or Processes()
        self.device = torch.device(_choose_device(config.device, self.processes))
        self.course = _course(config, device=self.device, processes=self.processes)
        self.objective = self.course.objective
        self.initial = load_initial_weights(self.model, config)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.objective, config), lr=0.0)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._amp_dtype() is torch.float16)
        self.position = Position()
        self.is_stopping = False
        self.log = RunLog(out, has_tensorboard=config.has_tensorboard)

    @property
    def model(self) -> AVESFormer:
        """The network, without the helpers of its loss."""
        model: AVESFormer = self.objective.model  # type: ignore[assignment]
        return model

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by time, whichever is further, in [0, 1]."""
        by_time = self.position.elapsed_s / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return min(1.0, max(self.position.step / self.course.num_steps, by_time))

    def learning_rate(self) -> float:
        """Linear warm-up, then the schedule over the whole run."""
        warmup = min(1.0, (self.position.step + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmup * rate_share(self.config.rate_schedule, self.progress)

    def size_px(self) -> int:
        """Frame size at this point of the run."""
        return [size for start, size in self.config.sizes if self.progress >= start][-1]

    def stop(self) -> None:
        """Ask a run to save itself and end after the step that it is in; a signal handler may call it."""
        self.is_stopping = True

    def run(self, report: Report | None = None) -> bool:
        """Train to the end, logging and saving on the way.

        Args:
            report: called after every step with its losses and after evaluations with their figures.

        Returns:
            Whether it came to its end. A run that was stopped, in any of its processes, is saved: `resume` goes on.

        Raises:
            TrainingError: a loss that is not finite, or an audio branch that could never learn.
        """
        self._check_audio()
        saved_s = evaluated_s = self.position.elapsed_s
        while self.progress < 1.0:
            losses = self.step()
            if report is not None:
                report(losses)
            if self._is_evaluation_due(evaluated_s):
                self.evaluate(report)
                evaluated_s = self.position.elapsed_s
            if self.position.elapsed_s - saved_s >= 60 * self.config.save_minutes:
                self.save()
                saved_s = self.position.elapsed_s
            if self.processes.longest(float(self.is_stopping), device=self.device) and self.progress < 1.0:
                self.save()
                self.close()
                return False
        self.save(figures=self.evaluate(report))
        self.close()
        return True

    def step(self, given: PreparedBatch | None = None) -> dict[str, Any]:
        """One optimizer step.

        Args:
            given: synthetic data: a batch to take in place of the course's own for this step.

        Returns:
            Losses (means over the processes), learning rate, step and samples per second.

        Raises:
            TrainingError: the loss is not finite.
        """
        started_s = self.clock()
        size_px, rate = self.size_px(), self.learning_rate()
        step = self.position.step
        torch.manual_seed(seeded(self.config.seed, step, stream=STREAM_GLOBAL, rank=self.processes.rank).initial_seed())
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("rate", 1.0)
        batch = given or self.course.batch(step, size_px=size_px)
        self._set_training_mode()
        with self._autocast():
            losses = self.objective(batch)
        numbers = self._shared(losses)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["loss"]).backward()
        self.processes.average(value.grad for value in self.objective.parameters() if value.grad is not None)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.processes.average(value for value in self.objective.buffers() if value.is_floating_point())
        self._update_average()
        self.position.step += 1
        took_s = self.clock() - started_s
        self.position.elapsed_s = self.processes.longest(self.position.elapsed_s + took_s, device=self.device)
        rate_per_s = self.course.samples_per_step / took_s if took_s > 0 else 0.0
        entry = {"step": self.position.step, **numbers, "lr": rate, "size_px": size_px, "samples_per_s": rate_per_s}
        if self.processes.is_first:
            self.log.add_step(entry)
        return entry

    def evaluate(self, report: Report | None = None) -> dict[str, Any]:
        """Figures of the averaged weights (and of the latest) on unseen clips, appended to the log."""
        started_s = self.clock()
        figures: dict[str, Any] = {
            "step": self.position.step,
            "samples": self.position.step * self.course.samples_per_step,
            "minutes": round(self.position.elapsed_s / 60, 2),
            "size_px": self.size_px(),
            "lr": self.learning_rate(),
        }
        if self.processes.is_first:
            figures |= self._measure(self.average)
            if self.course.selection == "":
                figures["latest_iou_sounding"] = self._measure(self.model.state_dict())["iou_sounding"]
            self._keep_best(figures)
            self.log.add_figures(figures)
            if report is not None:
                report(figures)
        self.position.elapsed_s += self.clock() - started_s
        self.position.elapsed_s = self.processes.longest(self.position.elapsed_s, device=self.device)
        return figures

    def save(self, figures: dict[str, Any] | None = None) -> None:
        """Write the checkpoint (averaged weights) and the state to resume from."""
        if self.processes.is_first:
            self._write_checkpoint(CHECKPOINT_NAME, figures or {})
            save_run(self.out / RESUME_NAME, self)
        self.processes.wait()

    def resume(self) -> None:
        """Take up the run in `out`.

        Raises:
            TrainingError: nothing there, damaged, or another model.
        """
        self.position = load_run(self.out, self)

    def has_run(self) -> bool:
        """Whether `out` already holds a run."""
        return (self.out / RESUME_NAME).exists()

    def close(self) -> None:
        """Stop reading ahead and end the log."""
        self.course.close()
        self.log.close()

    def _is_evaluation_due(self, evaluated_s: float) -> bool:
        minutes, steps = self.config.evaluate_minutes, self.course.evaluate_steps
        is_due_by_time = minutes > 0 and self.position.elapsed_s - evaluated_s >= 60 * minutes
        is_due_by_steps = steps > 0 and self.position.step % steps == 0 and self.progress < 1.0
        return is_due_by_time or is_due_by_steps

    def _set_training_mode(self) -> None:
        is_frozen = self.position.step < self.course.frozen_steps
        self.objective.train()
        if self.course.frozen_steps:
            self.model.backbone.requires_grad_(not is_frozen)
            self.model.backbone.train(not is_frozen)

    def _shared(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """Losses as numbers, means over the processes; one that is not finite stops them all."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        self.processes.average([values])
        numbers = {name: round(value, 5) for name, value in zip(losses, values.tolist(), strict=True)}
        if not math.isfinite(numbers["loss"]):
            parts = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            raise TrainingError(
                f"loss is not finite at step {self.position.step} ({parts}). The last checkpoint is untouched; resume "
                "it with a lower learning_rate or with amp=off."
            )
        return numbers

    def _check_audio(self) -> None:
        audio = self.model.config.audio
        is_new = self.position.step == 0 and not (self.config.audio_weights or self.config.init)
        if audio.kind == "vggish" and audio.is_frozen and is_new:
            raise TrainingError(
                "the audio branch is frozen and has no trained weights: add --set audio_weights=vggish-10086976.pth, "
                "or train it with --set audio.is_frozen=false"
            )

    def _write_checkpoint(self, name: str, figures: dict[str, Any]) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        summary = {
            "recipe": self.config.summary(),
            "steps": self.position.step,
            "samples": self.position.step * self.course.samples_per_step,
            "minutes": round(self.position.elapsed_s / 60, 1),
            "torch": torch.__version__,
            "figures": figures,
        }
        save_checkpoint(
            self.out / name,
            config=self.model.config,
            state=self.average,
            world_version=self.course.world_version,
            training=summary,
        )

    def _keep_best(self, figures: dict[str, Any]) -> None:
        value = figures.get(self.course.selection)
        if value is not None and value > self.position.best:
            self.position.best = float(value)
            self._write_checkpoint(BEST_NAME, figures)

    def _amp_dtype(self) -> torch.dtype | None:
        choice = self.config.amp
        if choice == "auto":
            choice = "bf16" if self.device.type == "cuda" else "off"
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[choice]

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = self._amp_dtype()
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def _update_average(self) -> None:
        # The decay climbs to its end value, so that the first random weights are soon forgotten.
        step = self.position.step
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def averaged_model(self) -> AVESFormer:
        """A network of its own with the averaged weights, in eval mode."""
        return self._model_of(self.average)

    def _measure(self, state: dict[str, Tensor]) -> dict[str, Any]:
        return self.course.evaluate(self._model_of(state), size_px=self.size_px())

    def _model_of(self, state: dict[str, Tensor]) -> AVESFormer:
        model = AVESFormer(self.model.config).to(self.device)
        model.load_state_dict(state)
        return model.eval()


def _course(config: TrainingConfig, *, device: torch.device, processes: Processes) -> Course:
    if config.data == "synthetic":
        return SyntheticCourse(config, device=device, processes=processes)
    return AvsbenchCourse(config, device=device, processes=processes)


def _choose_device(name: str, processes: Processes) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{processes.local_rank}" if name == "cuda" and processes.size > 1 else name
