"""The training loop: takes batches from a task, writes checkpoints and a log of figures.

All randomness of a step is derived from (seed, step, process), so a resumed run continues exactly where it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.network.avesformer import AVESFormer
from model.network.checkpoint import save_checkpoint
from model.training.config import Position, TrainingConfig, TrainingError
from model.training.device import amp_dtype, autocast, choose_device
from model.training.distributed import ProcessGroup
from model.training.initial_weights import load_initial_weights
from model.training.run_log import RunLog
from model.training.run_state import RESUME_NAME, load_run, save_run
from model.training.schedule import parameter_groups, rate_share
from model.training.tasks.build import build_task
from model.training.tasks.synthetic_objective import PreparedBatch
from model.training.tasks.task import seeded

CHECKPOINT_NAME = "model.safetensors"
BEST_NAME = "best.safetensors"
# Random stream that seeds torch's global generator, which stochastic depth draws from.
STREAM_GLOBAL = 2

Clock = Callable[[], float]
Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Trainer of one network.

    Args:
        config: the run.
        out: folder for the checkpoint, the log and the state to resume from.
        clock: monotonic clock in seconds.
        group: the processes of the run.

    Raises:
        ValueError: a variant, knob, data folder or weights file cannot be used.
    """

    def __init__(
        self,
        config: TrainingConfig,
        *,
        out: Path,
        clock: Clock = time.monotonic,
        group: ProcessGroup | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.out = out
        self.clock = clock
        self.group = group or ProcessGroup()
        self.device = choose_device(config.device, self.group)
        self.task = build_task(config, device=self.device, group=self.group)
        self.objective = self.task.objective
        self.initial = load_initial_weights(self.model, config)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.objective, config), lr=0.0)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._dtype = amp_dtype(config.amp, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype is torch.float16)
        self.position = Position()
        self.is_stopping = False
        self.log = RunLog(out, has_tensorboard=config.has_tensorboard)

    @property
    def model(self) -> AVESFormer:
        """The network without the auxiliary heads of its loss."""
        model: AVESFormer = self.objective.model  # type: ignore[assignment]
        return model

    @property
    def progress(self) -> float:
        """Completed share of the run in [0, 1]: the larger of the shares by steps and by time."""
        by_time = self.position.elapsed_s / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return min(1.0, max(self.position.step / self.task.num_steps, by_time))

    def learning_rate(self) -> float:
        """Learning rate of the next step: linear warm-up times the schedule."""
        warmup = min(1.0, (self.position.step + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmup * rate_share(self.config.rate_schedule, self.progress)

    def size_px(self) -> int:
        """Frame height and width of the next step, in pixels."""
        return [size for start, size in self.config.sizes if self.progress >= start][-1]

    def stop(self) -> None:
        """Request that the run saves and ends after the current step. Safe to call from a signal handler."""
        self.is_stopping = True

    def run(self, report: Report | None = None) -> bool:
        """Train to the end; log, evaluate and save at the configured intervals.

        Args:
            report: called with the losses of each step and with the figures of each evaluation.

        Returns:
            True if the run finished, False if `stop` was called in any of its processes. A stopped run is saved and
            can be resumed.

        Raises:
            TrainingError: the loss is not finite, or the audio branch is frozen without trained weights.
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
            if self.group.maximum(float(self.is_stopping), device=self.device) and self.progress < 1.0:
                self.save()
                self.close()
                return False
        self.save(figures=self.evaluate(report))
        self.close()
        return True

    def step(self, given: PreparedBatch | None = None) -> dict[str, Any]:
        """Run one optimizer step.

        Args:
            given: synthetic data: a batch to use instead of the task's own.

        Returns:
            Losses (means over the processes), learning rate, step and samples per second.

        Raises:
            TrainingError: the loss is not finite.
        """
        started_s = self.clock()
        size_px, rate = self.size_px(), self.learning_rate()
        step = self.position.step
        torch.manual_seed(seeded(self.config.seed, step, stream=STREAM_GLOBAL, rank=self.group.rank).initial_seed())
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate * parameters.get("rate", 1.0)
        batch = given or self.task.batch(step, size_px=size_px)
        self._set_training_mode()
        with autocast(self._dtype, self.device):
            losses = self.objective(batch)
        numbers = self._shared(losses)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses["loss"]).backward()
        self.group.average(value.grad for value in self.objective.parameters() if value.grad is not None)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.group.average(value for value in self.objective.buffers() if value.is_floating_point())
        self._update_average()
        self.position.step += 1
        took_s = self.clock() - started_s
        self.position.elapsed_s = self.group.maximum(self.position.elapsed_s + took_s, device=self.device)
        rate_per_s = self.task.samples_per_step / took_s if took_s > 0 else 0.0
        entry = {"step": self.position.step, **numbers, "lr": rate, "size_px": size_px, "samples_per_s": rate_per_s}
        if self.group.is_first:
            self.log.add_step(entry)
        return entry

    def evaluate(self, report: Report | None = None) -> dict[str, Any]:
        """Evaluate the averaged weights (on synthetic data also the latest) and append the figures to the log."""
        started_s = self.clock()
        figures: dict[str, Any] = {
            "step": self.position.step,
            "samples": self.position.step * self.task.samples_per_step,
            "minutes": round(self.position.elapsed_s / 60, 2),
            "size_px": self.size_px(),
            "lr": self.learning_rate(),
        }
        if self.group.is_first:
            figures |= self._measure(self.average)
            if self.task.selection == "":
                figures["latest_iou_sounding"] = self._measure(self.model.state_dict())["iou_sounding"]
            self._keep_best(figures)
            self.log.add_figures(figures)
            if report is not None:
                report(figures)
        self.position.elapsed_s += self.clock() - started_s
        self.position.elapsed_s = self.group.maximum(self.position.elapsed_s, device=self.device)
        return figures

    def save(self, figures: dict[str, Any] | None = None) -> None:
        """Write the checkpoint (averaged weights) and the resumable state."""
        if self.group.is_first:
            self._write_checkpoint(CHECKPOINT_NAME, figures or {})
            save_run(self.out / RESUME_NAME, self)
        self.group.wait()

    def resume(self) -> None:
        """Load the saved state of the run in `out`.

        Raises:
            TrainingError: there is no saved state, it is damaged or it belongs to another model.
        """
        self.position = load_run(self.out, self)

    def has_run(self) -> bool:
        """Whether `out` already contains a run."""
        return (self.out / RESUME_NAME).exists()

    def close(self) -> None:
        """Stop prefetching and close the log."""
        self.task.close()
        self.log.close()

    def _is_evaluation_due(self, evaluated_s: float) -> bool:
        minutes, steps = self.config.evaluate_minutes, self.task.evaluate_steps
        is_due_by_time = minutes > 0 and self.position.elapsed_s - evaluated_s >= 60 * minutes
        is_due_by_steps = steps > 0 and self.position.step % steps == 0 and self.progress < 1.0
        return is_due_by_time or is_due_by_steps

    def _set_training_mode(self) -> None:
        is_frozen = self.position.step < self.task.frozen_steps
        self.objective.train()
        if self.task.frozen_steps:
            self.model.backbone.requires_grad_(not is_frozen)
            self.model.backbone.train(not is_frozen)

    def _shared(self, losses: dict[str, Tensor]) -> dict[str, float]:
        """Average losses over the processes; raises TrainingError in all of them if the loss is not finite."""
        values = torch.stack([value.detach().float() for value in losses.values()])
        self.group.average([values])
        numbers = {name: round(value, 5) for name, value in zip(losses, values.tolist(), strict=True)}
        if not math.isfinite(numbers["loss"]):
            parts = ", ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            raise TrainingError(
                f"the loss is not finite at step {self.position.step} ({parts}). The last saved state is intact; "
                "resume with a lower learning_rate or with amp=off."
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
            "samples": self.position.step * self.task.samples_per_step,
            "minutes": round(self.position.elapsed_s / 60, 1),
            "torch": torch.__version__,
            "figures": figures,
        }
        save_checkpoint(
            self.out / name,
            config=self.model.config,
            state=self.average,
            world_version=self.task.world_version,
            training=summary,
        )

    def _keep_best(self, figures: dict[str, Any]) -> None:
        value = figures.get(self.task.selection)
        if value is not None and value > self.position.best:
            self.position.best = float(value)
            self._write_checkpoint(BEST_NAME, figures)

    def _update_average(self) -> None:
        # The decay rises to its final value, so that the average forgets the random initial weights.
        step = self.position.step
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def averaged_model(self) -> AVESFormer:
        """Return a separate network with the averaged weights, in eval mode."""
        return self._model_of(self.average)

    def _measure(self, state: dict[str, Tensor]) -> dict[str, Any]:
        return self.task.evaluate(self._model_of(state), size_px=self.size_px())

    def _model_of(self, state: dict[str, Tensor]) -> AVESFormer:
        model = AVESFormer(self.model.config).to(self.device)
        model.load_state_dict(state)
        return model.eval()
