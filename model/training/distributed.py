"""The processes of one distributed training run, as torchrun starts them.

Gradients are averaged in one flat all-reduce after the backward pass. This overlaps no communication with computation,
but parts of the network may be frozen and unfrozen during a run, which DistributedDataParallel does not allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

# Longest wait for another process: one process evaluates while the others wait at a barrier.
COLLECTIVE_TIMEOUT = timedelta(hours=6)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: number of this process, 0 to size - 1; rank 0 writes files and evaluates.
        size: number of processes.
        local_rank: number of this process's GPU on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and evaluates."""
        return self.rank == 0

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place. All processes pass the same shapes."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_dtype.values():
            flat = torch.cat([tensor.flatten() for tensor in alike])
            dist.all_reduce(flat)
            flat /= self.size
            for tensor, part in zip(alike, torch.split(flat, [tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def maximum(self, value: float, *, device: torch.device) -> float:
        """Return the largest of the processes' values, so that all of them take the same decision."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return float(shared)

    def wait(self) -> None:
        """Return when every process has called this."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Destroy torch's process group."""
        if self.size > 1:
            dist.destroy_process_group()


def join_process_group(environment: Mapping[str, str], *, has_cuda: bool) -> ProcessGroup:
    """Join the run that torchrun describes in the environment, or return a group of one process.

    Args:
        environment: RANK, WORLD_SIZE and LOCAL_RANK are read here; torch reads MASTER_ADDR and MASTER_PORT.
        has_cuda: use NCCL and one GPU per process; otherwise gloo.
    """
    size = int(environment.get("WORLD_SIZE", "1"))
    if size <= 1:
        return ProcessGroup()
    group = ProcessGroup(rank=int(environment["RANK"]), size=size, local_rank=int(environment.get("LOCAL_RANK", "0")))
    if has_cuda:
        torch.cuda.set_device(group.local_rank)
    backend = "nccl" if has_cuda else "gloo"
    dist.init_process_group(backend, rank=group.rank, world_size=size, timeout=COLLECTIVE_TIMEOUT)
    return group
