"""Fully sharded training (FSDP): each process keeps a part of every weight, for a UNet that does not fit on one GPU.

PyTorch's `fully_shard` makes each parameter a DTensor. Checkpoints hold whole tensors: hooks of the model and of the
optimiser gather what is saved and distribute what is loaded, so that a checkpoint does not depend on the sharding.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from fastreid.config import CfgNode, ConfigError
from fastreid.modeling.amp import amp_dtype
from fastreid.utils import comm


def shard(cfg: CfgNode, model: nn.Module, device: torch.device) -> None:
    """Distribute the parameters of a model over all processes, in place, if SOLVER.FSDP.ENABLED is set.

    The optimiser must be built afterwards. The model may be on the CPU: its units are moved to the device one after the
    other, so that the whole model need not fit there. Units that are gathered together and freed after use are the
    blocks that a model of diffusers or transformers declares as such; everything else is one unit, which is gathered in
    float32.

    Args:
        cfg: the config.
        model: the bare model.
        device: the device of this process.

    Raises:
        ConfigError: there is only one process, or a key is set that needs whole weights.
    """
    if not cfg.SOLVER.FSDP.ENABLED:
        return
    if not comm.is_distributed():
        raise ConfigError(
            "SOLVER.FSDP distributes a model over processes: start several (--num-gpus, torchrun), or turn it off"
        )
    if cfg.MODEL.CHANNELS_LAST:
        raise ConfigError("SOLVER.FSDP cannot divide weights of MODEL.CHANNELS_LAST: turn one off")
    for key, is_on in (("SOLVER.EMA", cfg.SOLVER.EMA.ENABLED), ("SOLVER.FREEZE_ITERS", bool(cfg.SOLVER.FREEZE_ITERS))):
        if is_on:
            raise ConfigError(f"{key} works on whole weights, which no process has under SOLVER.FSDP: turn one off")
    mesh = init_device_mesh(device.type, (comm.get_world_size(),))
    policy = _precision_of_blocks(cfg, device)
    for unit in _units(model):
        _start_as_main(unit, device)
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    _start_as_main(model, device)
    whole: Any = fully_shard(model, mesh=mesh)
    if not cfg.SOLVER.FSDP.SYNC_EACH_PART:
        # The name that DistributedDataParallel has for it, by which a trainer knows that it can wait.
        whole.no_sync = functools.partial(_without_sync, whole)
    model.register_state_dict_post_hook(_gather_state)
    model.register_load_state_dict_pre_hook(_share_state)


def _precision_of_blocks(cfg: CfgNode, device: torch.device) -> MixedPrecisionPolicy:
    """Return the format in which the weights of blocks are gathered; their gradients are added up in float32.

    Blocks must run under autocast of that format, as others expect float32 weights. Autocast would convert the weights
    of linear and convolutional layers in any case; those of norms are rounded here, too.
    """
    dtype = amp_dtype(cfg, device)
    if cfg.SOLVER.FSDP.GATHER_DTYPE == "fp32" or not cfg.TEST.AMP.ENABLED or dtype is None:
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)


@contextlib.contextmanager
def _without_sync(model: FSDPModule) -> Iterator[None]:
    """Keep the gradients of the block in this process; the first backward pass after it adds them up."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


@torch.no_grad()
def _start_as_main(unit: nn.Module, device: torch.device) -> None:
    """Move what is not sharded to the device, with the values of the main process: others may have drawn different."""
    whole = [tensor for tensor in (*unit.parameters(), *unit.buffers()) if not isinstance(tensor, DTensor)]
    for tensor in whole:
        tensor.data = tensor.data.to(device)
    comm.copy_from_main(whole)


def is_sharded(model: nn.Module) -> bool:
    """Whether the parameters of the model are distributed."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextlib.contextmanager
def whole_weights(model: nn.Module, parts: Sequence[nn.Module] | None = None) -> Iterator[None]:
    """Gather the weights of a sharded model for the block, in which a process may run the model by itself.

    Every process must enter the block and leave it.

    Args:
        model: the model.
        parts: the parts that run, None for all.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if parts is not None:
        inside = {module for part in parts for module in part.modules()}
        units = [unit for unit in units if unit is model or unit in inside]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not model, recurse=False)  # as `fully_shard` sets it
            unit.reshard()


def keep_whole(optimizer: torch.optim.Optimizer) -> None:
    """Make an optimiser of sharded parameters save and load whole tensors."""
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "state": _gathered(state["state"])})
    optimizer.register_load_state_dict_pre_hook(_share_optimizer)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """The units of a model, inner ones first, as `fully_shard` requires."""
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    # modules() has a parent before its children.
    yield from reversed([module for module in model.modules() if type(module).__name__ in names])


def _gathered(tree: Any) -> Any:
    """Replace DTensors by whole tensors on the CPU in the main process, and by tensors without values in the others.

    Every process must call it. The main process writes checkpoints; the others need names and shapes only.
    """
    if isinstance(tree, dict):
        return {key: _gathered(value) for key, value in tree.items()}
    if not isinstance(tree, DTensor):
        return tree
    return tree.full_tensor().detach().to("cpu" if comm.is_main_process() else "meta")


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
    """Distribute a tensor like a parameter."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(mesh.device_type), mesh, placements, src_data_rank=None)


def replicated(model: nn.Module) -> nn.Module:
    """The model wrapped in DistributedDataParallel; unchanged in one process, or if it is sharded."""
    if comm.get_world_size() == 1 or is_sharded(model):
        return model
    # The name of the option depends on the version of torch.
    names = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    # Gradients are views of the buffers that are sent: otherwise there are two copies of them.
    options: dict[str, Any] = {option: False, "gradient_as_bucket_view": True}
    # Without device_ids it leaves a batch as it is. It would move all tensors of a batch to the GPU, also those that
    # Python reads, which would then be waited for.
    return DistributedDataParallel(model, **options)
