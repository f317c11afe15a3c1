"""Fully sharded training (FSDP): every process keeps a part of each weight, for a UNet that one GPU cannot hold.

PyTorch's `fully_shard` makes each parameter a DTensor. What is written and read stays whole: hooks of the model and of
the optimiser gather what they write and share out what they read, so a checkpoint does not know how it was trained.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fastreid.config import ConfigError
from fastreid.utils import comm


def shard(cfg: Any, model: nn.Module, device: torch.device) -> None:
    """Share the parameters of a model among all processes, in place, if SOLVER.FSDP asks for it.

    The optimiser is built after it. Gathered at once, and let go after use, are the blocks that a model of diffusers or
    transformers names as its units; all else is one unit.

    Raises:
        ConfigError: one process only, or together with what needs whole weights.
    """
    if not cfg.SOLVER.FSDP.ENABLED:
        return
    if not comm.is_distributed():
        raise ConfigError(
            "SOLVER.FSDP shares a model among processes: start several (--num-gpus, torchrun), or turn it off"
        )
    for key, is_on in (("SOLVER.EMA", cfg.SOLVER.EMA.ENABLED), ("SOLVER.FREEZE_ITERS", bool(cfg.SOLVER.FREEZE_ITERS))):
        if is_on:
            raise ConfigError(f"{key} works on whole weights, which no process has under SOLVER.FSDP: turn one off")
    with torch.no_grad():  # a process may have drawn other first weights
        comm.copy_from_main([*model.parameters(), *model.buffers()])
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    for unit in _units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.register_state_dict_post_hook(_gather_state)
    model.register_load_state_dict_pre_hook(_share_state)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` did something to the model."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Gather the weights of a sharded model for the block; every process must enter it."""
    if not is_sharded(model):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def keep_whole(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser of sharded parameters write and read whole tensors."""
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "state": _gathered(state["state"])})
    optimizer.register_load_state_dict_pre_hook(_share_optimizer)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """Inner ones first, as `fully_shard` wants it."""
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    # modules() has a parent before its children.
    yield from reversed([module for module in model.modules() if type(module).__name__ in names])


def _gathered(tree: Any) -> Any:
    """Whole tensors, on the CPU, in place of DTensors; every process must come here."""
    if isinstance(tree, dict):
        return {key: _gathered(value) for key, value in tree.items()}
    return tree.detach().full_tensor().cpu() if isinstance(tree, DTensor) else tree


def _gather_state(model: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name, value in state.items():
        state[name] = _gathered(value)


def _share_state(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, parameter in model.named_parameters():
        if prefix + name in state:
            state[prefix + name] = _like(parameter, state[prefix + name])


def _share_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    owner = dict(zip(numbers, parameters, strict=True))
    shared = {
        number: {
            name: _like(owner[number], value)
            if isinstance(value, Tensor) and value.shape == owner[number].shape
            else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    return {**state, "state": shared}


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Shared out as the parameter is."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def replicated(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with its gradients averaged over processes; as it is where there is one process, or it is sharded."""
    if comm.get_world_size() == 1 or is_sharded(model):
        return model
    device_ids = [comm.get_local_rank()] if device.type == "cuda" else None
    # The option's name depends on the version of torch.
    names = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    return DistributedDataParallel(model, device_ids=device_ids, **{option: False})
