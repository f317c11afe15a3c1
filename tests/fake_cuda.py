"""CUDA without a GPU: runs code on FakeTensors that are "on" a CUDA device, and lists where it would wait.

A FakeTensor has a shape, a type and a device, and no values. Operations on fake tensors of two devices raise the error
that real ones raise. Python waits for the GPU when it needs a value of a tensor, a shape that depends on values, or a
copy between the devices; each such operation is recorded with its line.

What this cannot show: values, the kernels themselves, nccl, and autocast, which torch turns off without a GPU.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = str(Path(__file__).parents[1] / "fastreid")
DEVICE = torch.device("cuda", 0)
CPU = torch.device("cpu")

aten = torch.ops.aten
# Operations whose CUDA kernels copy a number to the CPU: the shape of their result, or a check, depends on values.
_READ_VALUES = {
    aten._local_scalar_dense: "a value is read (item, int, bool, float, a 0-dimensional index)",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten.bincount: "bincount",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique_consecutive",
    aten.equal: "equal",
    aten.is_nonzero: "a value is read",
    aten.linalg_eigh: "eigh",
    aten._linalg_eigh: "eigh",
    aten.linalg_inv_ex: "inv",
}
_INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)


class FakeCuda:
    """A fake CUDA device.

    Attributes:
        waits: each wait since the last `clear`, "file:line: the line: what waits".
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: list[str] = []
        self._pinned: set[int] = set()
        self._kept: list[Tensor] = []  # so that no other tensor gets the id of a pinned one

    @contextlib.contextmanager
    def running(self) -> Iterator[FakeCuda]:
        """In the block, all tensors are fake, and waits are recorded."""
        cpu_generator = torch.Generator
        with (
            warnings.catch_warnings(),
            mock.patch.object(torch, "Generator", lambda device="cpu": cpu_generator()),  # noqa: PT008
            mock.patch.object(Tensor, "pin_memory", lambda tensor: self.pin(tensor)),
            mock.patch.object(Tensor, "is_pinned", lambda tensor: id(tensor) in self._pinned),
            mock.patch.object(FakeTensor, "tolist", lambda tensor: self._list_of(tensor)),
            mock.patch.object(Tensor, "backward", backward),
            self.mode,
            _Recorder(self),
        ):
            warnings.simplefilter("ignore")  # torch warns that there is no CUDA
            yield self

    def clear(self) -> None:
        """Forget the waits so far."""
        self.waits.clear()

    def tensor(self, like: Tensor, device: torch.device = DEVICE) -> Tensor:
        """Return a fake tensor of the shape and type of another one."""
        with self.mode:
            return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=device)

    def move(self, module: nn.Module) -> nn.Module:
        """Replace all parameters and buffers of a module by fake ones on the device, in place."""
        made: dict[int, Any] = {}
        for part in module.modules():
            for table in (part._parameters, part._buffers):
                for name, value in table.items():
                    if value is not None:
                        table[name] = made.setdefault(id(value), self._like(value))
        return module

    def _like(self, value: Tensor) -> Tensor:
        fake = self.tensor(value.detach())
        return nn.Parameter(fake, requires_grad=value.requires_grad) if isinstance(value, nn.Parameter) else fake

    def pin(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor of the CPU in pinned memory."""
        if tensor.device != CPU:
            raise RuntimeError(f"cannot pin a tensor on {tensor.device}")
        if any(not stride and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            raise RuntimeError("unsupported operation: more than one element refers to a single memory location")
        copy = self.tensor(tensor, CPU)
        self._pinned.add(id(copy))
        self._kept.append(copy)
        return copy

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether a tensor is in pinned memory."""
        return id(tensor) in self._pinned

    def _list_of(self, tensor: Tensor) -> Any:
        if tensor.device != CPU:
            self.note("tolist")
        value = _some_value(tensor)
        for size in reversed(tensor.shape):
            value = [value] * size
        return value

    def note(self, what: str) -> None:
        """Record a wait at the innermost line of the package."""
        frame: Any = sys._getframe(1)
        inner = frame
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        file, line = (frame or inner).f_code.co_filename, (frame or inner).f_lineno
        text = linecache.getline(file, line).strip()
        self.waits.append(f"{file.removeprefix(PACKAGE + '/')}:{line}: {text}: {what}")


class _Recorder(TorchDispatchMode):
    """Records the operations that wait, and gives some value or shape where a real one is needed."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = function.overloadpacket
        if packet in _INDEXED:
            args = self._index(args)
        elif packet in (aten._to_copy, aten.copy_):
            self._copy(packet, args, kwargs)
        elif packet in _READ_VALUES or (packet is aten.repeat_interleave and kwargs.get("output_size") is None):
            if args[0].device.type == "cuda":
                self._cuda.note(_READ_VALUES.get(packet, "repeat_interleave with a tensor and without output_size"))
            if packet is aten._local_scalar_dense:
                return _some_value(args[0])
            if packet is aten.nonzero:
                return args[0].new_zeros((max(1, args[0].numel()), args[0].ndim), dtype=torch.int64)
            if packet is aten.bincount:
                return args[0].new_zeros(max(1, kwargs.get("minlength", 1), *args[2:]))
            if packet is aten.equal:
                return True
        return function(*args, **kwargs)

    def _copy(self, packet: Any, args: Any, kwargs: Any) -> None:
        if packet is aten._to_copy:
            source, target = args[0], kwargs.get("device")
            is_async = bool(kwargs.get("non_blocking"))
            target = source.device if target is None else torch.device(target)
        else:
            target, source = args[0].device, args[1]
            is_async = bool(kwargs.get("non_blocking", len(args) > 2 and args[2]))
        if source.device.type == target.type:
            return
        if not (is_async and source.device == CPU and self._cuda.is_pinned(source)):
            missing = "pinned memory" if is_async else "non_blocking"
            self._cuda.note(f"a copy from {source.device.type} to {target.type} without {missing}")

    def _index(self, args: Any) -> Any:
        tensor, indices, *rest = args
        found = []
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                if index.device.type == "cuda":
                    self._cuda.note("a boolean index")
                assert index.ndim == 1, "only vectors are faked"
                index = torch.arange(len(index), device=index.device)
            if index is not None and index.device.type != tensor.device.type:
                if index.device.type == "cuda":
                    raise RuntimeError(f"indices should be on the CPU or on {tensor.device}, got {index.device}")
                if index.ndim:
                    self._cuda.note("an index on the CPU, which is copied")
                index = index.to(tensor.device, non_blocking=True) if self._cuda.is_pinned(index) else index
            found.append(index)
        return (tensor, found, *rest)


def _some_value(tensor: Tensor) -> Any:
    """A value of the type of a tensor: 1, or True."""
    return True if tensor.dtype is torch.bool else 1.0 if tensor.is_floating_point() else 1


def backward(loss: Tensor) -> None:
    """Add the gradients of a scalar to the leaves, as `Tensor.backward` does.

    The engine of a torch that was built with CUDA asks the driver about the device of a tensor, so it cannot run fake
    ones without a GPU. Nodes are called here in its order: a node after all nodes that use its output.
    """
    users: dict[Any, int] = {}
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for following, _ in node.next_functions:
            if following is not None:
                users[following] = users.get(following, 0) + 1
                waiting.append(following)
    gradients: dict[Any, dict[int, Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    ready = [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            given = gradients.pop(node, {})
            if hasattr(node, "variable"):
                leaf = node.variable
                if 0 in given:
                    leaf.grad = given[0] if leaf.grad is None else leaf.grad + given[0]
                continue
            found: Any = (None,) * len(node.next_functions)
            if given:
                found = node(*(given.get(number) for number in range(len(node._input_metadata))))
            found = found if isinstance(found, tuple) else (found,)
            for (following, number), gradient in zip(node.next_functions, found, strict=True):
                if following is None:
                    continue
                if gradient is not None:
                    expected = following._input_metadata[number]
                    gradient = gradient.sum_to_size(expected.shape).to(expected.dtype)
                    sums = gradients.setdefault(following, {})
                    sums[number] = sums[number] + gradient if number in sums else gradient
                users[following] -= 1
                if not users[following]:
                    ready.append(following)
