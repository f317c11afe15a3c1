"""Batch normalisation over the batches of all processes, on CPUs as well."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastreid.utils import comm


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation of [B, C] or [B, C, …]; in training, over the batches of all processes.

    On GPUs it is that of torch, which exchanges all statistics of a layer at once. Torch has none for CPUs. Names and
    buffers are those of nn.BatchNorm. Statistics are computed in float32, or float64 for float64 inputs. In eval mode,
    and with one process, the layer computes the same as nn.BatchNorm.
    """

    # What the forward pass of torch's layer uses. DistributedDataParallel refuses its subclasses on CPUs.
    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected [B, C] or [B, C, …], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input."""
        if not (self.training and comm.is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        if input.is_cuda:
            return nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
        axes = [0, *range(2, input.ndim)]
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_full((1,), values.numel() // values.shape[1])
        total = comm.all_reduce_sum(count)
        # Two rounds: the difference of two large sums would cancel.
        mean = comm.sum_over_processes(values.sum(dim=axes)) / total
        shape = (1, -1, *([1] * (input.ndim - 2)))
        centred = values - mean.view(shape)
        variance = comm.sum_over_processes(centred.square().sum(dim=axes)) / total
        self._track(mean.detach(), variance.detach(), total)
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        unbiased = variance * total / (total - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


def synchronized(module: nn.Module) -> nn.Module:
    """Replace every BatchNorm1d and BatchNorm2d in a module by a `SyncBatchNorm` with the same tensors.

    Args:
        module: the module, which is changed.

    Returns:
        The module, or its replacement if it is a batch norm itself.
    """
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        new = SyncBatchNorm(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        for name, parameter in module.named_parameters(recurse=False):
            setattr(new, name, parameter)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(new, name, buffer)
        return new.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, synchronized(child))
    return module
