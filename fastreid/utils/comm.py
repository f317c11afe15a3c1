"""What the processes of one run say to each other (nccl or gloo); all of it also works alone."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist


def is_distributed() -> bool:
    """True when a process group with more than one process is up."""
    return get_world_size() > 1


def get_world_size() -> int:
    """Number of processes in the run, all machines together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def get_rank() -> int:
    """Rank of this process among all."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def get_local_rank() -> int:
    """Rank of this process on its machine: the index of the GPU it owns."""
    return int(os.environ.get("LOCAL_RANK", 0)) if get_world_size() > 1 else 0


def is_main_process() -> bool:
    """True in the one process that writes files and talks to the user."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has come here."""
    if is_distributed():
        dist.barrier()


def all_gather(obj: Any) -> list[Any]:
    """Return the (picklable) objects of all processes, by rank, in every process."""
    if not is_distributed():
        return [obj]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, obj)
    return gathered


def gather(obj: Any, dst: int = 0) -> list[Any]:
    """Return all processes' (picklable) objects, by rank, in process ``dst``; [] elsewhere."""
    if not is_distributed():
        return [obj]
    here = get_rank() == dst
    gathered: list[Any] | None = [None] * get_world_size() if here else None
    dist.gather_object(obj, gathered, dst=dst)
    return gathered if here else []


def broadcast(obj: Any, src: int = 0) -> Any:
    """Return process ``src``'s (picklable) object in every process."""
    if not is_distributed():
        return obj
    box = [obj if get_rank() == src else None]
    dist.broadcast_object_list(box, src=src)
    return box[0]


def copy_from_main(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite each tensor with the main process's; same order and shapes in every process."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over processes, a new tensor without gradient."""
    total = tensor.detach().clone()
    if is_distributed():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def reduce_dict(values: Mapping[str, torch.Tensor], *, average: bool = True) -> dict[str, torch.Tensor]:
    """Return the mean (or sum) over processes of each scalar tensor; same keys in every process."""
    detached = {key: value.detach() for key, value in values.items()}
    if not is_distributed() or not detached:
        return detached
    # Sorted: every process must stack in the same order, whatever order its dict grew in.
    keys = sorted(detached)
    total = all_reduce_sum(torch.stack([detached[key].float() for key in keys]))
    if average:
        total /= get_world_size()
    return dict(zip(keys, total.unbind(), strict=True))


def shared_random_seed() -> int:
    """Return one random seed in [0, 2**31), the same in every process, from torch's generator."""
    seed = int(torch.randint(2**31 - 1, (1,)).item())
    return int(broadcast(seed))
