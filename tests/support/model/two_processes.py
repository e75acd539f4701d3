"""Run by torchrun in two processes: a run, the same run cut in the middle, and what the processes hold. Prints JSON.

Usage: torchrun --standalone --nproc-per-node 2 two_processes.py ROOT OUT
"""

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from model.training.distributed import join_process_group
from model.training.recipes import recipe
from model.training.tasks.avsbench import AvsbenchTask
from model.training.trainer import Trainer

SETTINGS = ("variant=tiny", "sizes=0:32", "epochs=0", "steps=4", "batch_clips=4", "warmup_steps=1", "device=cpu",
            "backbone_frozen_epochs=1", "learning_rate=1e-3", "has_tensorboard=false")  # fmt: skip


def digest(trainer: Trainer) -> str:
    """Of everything that a step changes."""
    total = hashlib.sha256()
    for _, value in sorted(trainer.objective.state_dict().items()):
        total.update(value.numpy().tobytes())
    for _, value in sorted(trainer.average.items()):
        total.update(value.numpy().tobytes())
    return total.hexdigest()


def main() -> None:
    """Two steps, a cut, two steps; and four steps in one go."""
    torch.set_num_threads(1)
    group = join_process_group(os.environ, has_cuda=False)
    config = replace(recipe("ms3-r50", overrides=SETTINGS), root=sys.argv[1])
    whole = Trainer(config, out=Path(sys.argv[2]) / "whole", group=group)
    losses = [whole.step()["loss"] for _ in range(4)]
    first = Trainer(config, out=Path(sys.argv[2]) / "cut", group=group)
    for _ in range(2):
        first.step()
    first.save()
    second = Trainer(replace(config, seed=config.seed), out=Path(sys.argv[2]) / "cut", group=group)
    second.resume()
    for _ in range(2):
        second.step()
    task = whole.task
    assert isinstance(task, AvsbenchTask)
    own = task.order(1)[group.rank :: group.size]
    mine = {"whole": digest(whole), "resumed": digest(second), "losses": losses, "own": own, "all": task.order(1)}
    gathered: list[dict[str, object]] = [{}, {}]
    dist.all_gather_object(gathered, mine)
    if group.is_first:
        sys.stdout.write(json.dumps(gathered) + "\n")
    for trainer in (whole, first, second):
        trainer.close()
    group.close()


if __name__ == "__main__":
    main()
