"""Communication between the processes of a run (nccl or gloo); every function also works in a single process."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# Size of what is gathered at once: the parts of all ranks are in memory together.
_PART_BYTES = 64 * 2**20
# The group of `_cpu_group`, and the default group that it belongs to.
_CPU_GROUP: dict[str, Any] = {}


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


def get_local_size() -> int:
    """Number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", get_world_size())) if get_world_size() > 1 else 1


def is_main_process() -> bool:
    """True in the process that writes files and logs to the terminal."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process calls this function."""
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
    """Return the (picklable) objects of all processes, by rank, in process ``dst``; [] in the others."""
    if not is_distributed():
        return [obj]
    here = get_rank() == dst
    gathered: list[Any] = [None] * get_world_size() if here else []
    dist.gather_object(obj, gathered if here else None, dst=dst)
    return gathered


def broadcast(obj: Any, src: int = 0) -> Any:
    """Return the (picklable) object of process ``src`` in every process."""
    if not is_distributed():
        return obj
    box = [obj if get_rank() == src else None]
    dist.broadcast_object_list(box, src=src)
    return box[0]


def copy_from_main(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite each tensor with that of the main process; order and shapes must be the same in every process."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over processes, a new tensor without gradient."""
    total = tensor.detach().clone()
    if is_distributed():
        dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``tensor`` over processes; gradients flow through it, to every process."""
    return _Sum.apply(tensor) if is_distributed() else tensor


def rows_of_all(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows [B, …] of all processes, by rank, [R * B, …]; gradients flow through it, to every process.

    B must be the same in every process.
    """
    return _Rows.apply(rows) if is_distributed() else rows


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum(gradient)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum(gradient).chunk(get_world_size())[get_rank()]


def gather_rows(rows: torch.Tensor) -> list[torch.Tensor]:
    """Return the rows [N_r, …] of all processes, by rank, in every process, on the CPU.

    N may differ; shape and kind of the rows must agree, of a process without rows only the number of dimensions and the
    kind. Rows are sent in parts of at most 64 MiB, without being pickled.
    """
    if not is_distributed():
        return [rows.cpu()]
    rows = rows.detach().contiguous().to(_collective_device())
    counts = torch.zeros(get_world_size(), dtype=torch.int64, device=rows.device)
    counts[get_rank()] = len(rows)
    dist.all_reduce(counts)
    shape = torch.tensor(rows.shape[1:], dtype=torch.int64, device=rows.device)
    dist.all_reduce(shape, op=dist.ReduceOp.MAX)
    rows = rows if len(rows) else rows.new_zeros(0, *shape.tolist())
    step = max(1, _PART_BYTES // max(1, math.prod(rows.shape[1:]) * rows.element_size()))
    shares: list[list[torch.Tensor]] = [[rows[:0].cpu()] for _ in counts]
    for first in range(0, int(counts.max()), step):
        part = rows.new_zeros(min(step, int(counts.max()) - first), *rows.shape[1:])
        mine = rows[first : first + step]
        part[: len(mine)] = mine
        parts = [torch.empty_like(part) for _ in counts]
        dist.all_gather(parts, part)
        for share, count, got in zip(shares, counts.tolist(), parts, strict=True):
            share.append(got[: max(0, count - first)].cpu())
    return [torch.cat(share) for share in shares]


def gather_plain(value: Any) -> list[Any]:
    """Return the values of all processes, by rank, in every process; JSON must be able to hold them (no tuples)."""
    if not is_distributed():
        return [value]
    written = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    return [json.loads(part.numpy().tobytes()) for part in gather_rows(written)]


def _collective_device() -> torch.device:
    """The device that tensors must be on: nccl sends from GPUs only."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def reduce_dict(values: Mapping[str, torch.Tensor], *, average: bool = True) -> dict[str, torch.Tensor]:
    """Return the mean (or sum) over processes of each scalar tensor; keys must be the same in every process."""
    detached = {key: value.detach() for key, value in values.items()}
    if not is_distributed() or not detached:
        return detached
    # Sorted, as the order of the keys may differ between processes.
    keys = sorted(detached)
    total = all_reduce_sum(torch.stack([detached[key].float() for key in keys]))
    if average:
        total /= get_world_size()
    return dict(zip(keys, total.unbind(), strict=True))


def shared_random_seed() -> int:
    """Return one random seed in [0, 2**31), the same in every process, from torch's generator."""
    seed = torch.randint(2**31 - 1, (1,))
    if is_distributed():
        dist.broadcast(seed, src=0, group=_cpu_group())
    return int(seed)


def use_timeout(timeout: timedelta) -> None:
    """Set how long a process waits for the others in a group that is made later on; the default group has its own."""
    _CPU_GROUP["timeout"] = timeout


def _cpu_group() -> dist.ProcessGroup | None:
    """The group of all processes for tensors on the CPU; None if the default group is one.

    With nccl a number would have to pass the GPU, which would be waited for.
    """
    default = dist.group.WORLD
    if dist.get_backend() != "nccl":
        return None
    if _CPU_GROUP.get("of") is not default:
        _CPU_GROUP.update(of=default, group=dist.new_group(backend="gloo", timeout=_CPU_GROUP.get("timeout")))
    return _CPU_GROUP["group"]
