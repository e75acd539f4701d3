"""The log of a run: evaluations as JSON lines; losses and evaluations to TensorBoard if configured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_NAME = "log.jsonl"
BOARD_NAME = "tensorboard"
STEPS_PER_ENTRY = 10


class RunLog:
    """Writes below a run's folder.

    Args:
        out: the folder; made when something is written.
        has_tensorboard: also write TensorBoard event files.
    """

    def __init__(self, out: Path, *, has_tensorboard: bool) -> None:
        self.out = out
        self.has_tensorboard = has_tensorboard
        self._board: SummaryWriter | None = None

    def add_step(self, entry: dict[str, Any]) -> None:
        """Write the losses of every tenth step to TensorBoard."""
        if entry["step"] % STEPS_PER_ENTRY == 0:
            self._to_board(entry, group="step")

    def add_figures(self, figures: dict[str, Any]) -> None:
        """Append the figures of an evaluation as one line."""
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / LOG_NAME).open("a") as log:
            log.write(json.dumps(figures) + "\n")
        self._to_board(figures, group="evaluation")

    def close(self) -> None:
        """Flush and close the TensorBoard writer."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def _to_board(self, entry: dict[str, Any], *, group: str) -> None:
        if not self.has_tensorboard:
            return
        if self._board is None:
            # Imported here because it takes a second and most runs on the synthetic world do without.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.out / BOARD_NAME))
        for name, value in entry.items():
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(f"{group}/{name}", value, entry["step"])
