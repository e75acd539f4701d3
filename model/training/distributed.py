"""Several processes of one training run, as torchrun starts them.

Gradients are averaged in one flat call after the backward pass. That overlaps nothing, and it lets parts of the
network freeze and thaw during a run, which a wrapper that fixes its parameters at the start does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# One process evaluates while the others wait.
PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 .. size - 1; rank 0 writes and evaluates.
        size: number of processes.
        local_rank: number of its GPU on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors, alike in every process, by their mean over the processes."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for group in by_dtype.values():
            flat = torch.cat([tensor.flatten() for tensor in group])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(group, torch.split(flat, [tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def longest(self, seconds: float, *, device: torch.device) -> float:
        """The largest of a number over the processes, so that all of them see one clock."""
        if self.size == 1:
            return seconds
        value = torch.tensor([seconds], dtype=torch.float64, device=device)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return float(value)

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """End the process group."""
        if self.size > 1:
            dist.destroy_process_group()


def join_processes(environment: Mapping[str, str], *, has_cuda: bool) -> Processes:
    """Join the run that torchrun describes in the environment; a single process where it describes none.

    Args:
        environment: RANK, WORLD_SIZE and LOCAL_RANK are read here, MASTER_ADDR and MASTER_PORT by torch.
        has_cuda: NCCL and one GPU per process, else gloo.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size <= 1:
        return Processes()
    processes = Processes(rank=int(environment["RANK"]), size=size, local_rank=int(environment.get("LOCAL_RANK", "0")))
    if has_cuda:
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("nccl" if has_cuda else "gloo", rank=processes.rank, world_size=size, timeout=PATIENCE)
    return processes
