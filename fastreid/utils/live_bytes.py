"""Counts the bytes of the tensors that are alive while a function runs on FakeTensors."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
_INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index)


class LiveBytes(TorchDispatchMode):
    """Counts, inside of a `FakeTensorMode`, the bytes of the tensors that operations return, as long as they live.

    Where a value or a shape depends on the values of fake tensors, a number is 1, and a shape the largest one.

    Args:
        known: fake tensors that are not counted, nor views of them.

    Attributes:
        peak: the most bytes at the same time.
        peak_without_gradients: the same without tensors that were marked.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = list(known)  # so that no other storage gets their address
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in self._known}
        self._gradients: set[int] = set()
        self._live = self._live_gradients = 0
        self.peak = self.peak_without_gradients = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._result(function, args, kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return result

    def mark_gradient(self, gradient: Tensor) -> None:
        """Count a tensor among the gradients of parameters from now on."""
        key = gradient.untyped_storage()._cdata
        if key not in self._gradients:
            self._gradients.add(key)
            self._live_gradients += self._sizes.get(key, 0)

    def add(self, tensor: Tensor) -> None:
        """Count a tensor, unless another one that is counted has the same memory."""
        storage = tensor.untyped_storage()
        if storage._cdata in self._sizes:
            return
        size = self._sizes[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self._remove, storage._cdata).atexit = False
        self._live += size
        self.peak = max(self.peak, self._live)
        self.peak_without_gradients = max(self.peak_without_gradients, self._live - self._live_gradients)

    def _remove(self, key: int) -> None:
        size = self._sizes.pop(key)
        self._live -= size
        if key in self._gradients:
            self._gradients.remove(key)
            self._live_gradients -= size

    def _result(self, function: Any, args: Any, kwargs: Any) -> Any:
        packet = function.overloadpacket
        if packet is aten._local_scalar_dense:
            return _value_of(args[0])
        if packet is aten.equal or packet is aten.is_nonzero:
            return True
        if packet is aten.nonzero:
            return args[0].new_zeros((args[0].numel(), args[0].ndim), dtype=torch.int64)
        if packet is aten.bincount:
            return args[0].new_zeros(max(1, kwargs.get("minlength", 1), *args[2:]))
        if packet in _INDEXED:
            args = (args[0], [_whole(index) for index in args[1]], *args[2:])
        return function(*args, **kwargs)


def _value_of(tensor: Tensor) -> Any:
    """The value of a real tensor, and 1 or True for a fake one."""
    if not isinstance(tensor, FakeTensor):
        with no_dispatch():
            return tensor.item()
    return True if tensor.dtype is torch.bool else 1.0 if tensor.is_floating_point() else 1


def _whole(index: Tensor | None) -> Tensor | None:
    """The index that chooses all rows, in place of a boolean one."""
    if index is None or index.dtype not in (torch.bool, torch.uint8) or index.ndim != 1:
        return index
    return torch.arange(len(index), device=index.device)
