"""Reads the tensors in a TorchScript archive (torch.jit.save), as OpenAI publishes CLIP, without running its code.

Such an archive is a zip file with `data.pkl`, a pickle of the module and of those in it, `data/0` … with the values of
their tensors, and `code/`, which is not read here. The pickle cannot name any Python object: classes of the archive
become empty classes, and the few functions that rebuild tensors and lists are replaced by those below.
"""

from __future__ import annotations

import collections
import io
import os
import pickle
import pickletools
import zipfile
from typing import Any

import torch
from torch import Tensor

from fastreid.utils.state_dicts import State

# torch's names for storages of these types, as "HalfStorage".
_TYPES = {
    "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool,
}  # fmt: skip
# What torch.jit writes: constants, containers, the memo, objects. Others could fill the memory without a tensor.
_OPCODES = frozenset(
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
    "EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS "
    "BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL NEWOBJ REDUCE BUILD BINPERSID".split()
)


def read_torchscript(path: str | os.PathLike[str]) -> State:
    """Return the tensors of the modules in a TorchScript archive, with the names of `Module.state_dict`.

    Tensors that are plain attributes of a module are among them.

    Args:
        path: the file.

    Raises:
        UnpicklingError: the archive holds other Python objects, or does not agree with itself. Damaged files may raise
            other errors.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next(name for name in entries if name.endswith("/constants.pkl")).removesuffix("constants.pkl")
        read = [entry for name, entry in entries.items() if name.startswith((f"{root}data.pkl", f"{root}data/"))]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in read) or (
            sum(entry.file_size for entry in read) > os.path.getsize(path)
        ):
            raise pickle.UnpicklingError("its tensors are compressed, which torch does not do")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise pickle.UnpicklingError("it was written on a machine with another order of bytes")
        pickled = archive.read(f"{root}data.pkl")
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in _OPCODES or (opcode.name.endswith("BINPUT") and int(str(argument)) > len(pickled)):
                raise pickle.UnpicklingError(f"{opcode.name} is not allowed")
        return _named(_Modules(pickled, archive, f"{root}data/").load())


class _Module:
    """Stands for every class of an archive; the pickle sets the attributes of its objects."""


class _Modules(pickle.Unpickler):
    """Reads the pickle of an archive.

    Args:
        pickled: the pickle.
        archive: where the values of tensors are.
        folder: beginning of the names of the files with values.
    """

    def __init__(self, pickled: bytes, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(pickled))
        self._archive, self._folder = archive, folder
        self._values: dict[tuple[str, torch.dtype], Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a global; objects made here are new each time, so that a pickle can change no other.

        Raises:
            UnpicklingError: any other global than those that torch.jit writes.
        """
        if module.split(".")[0] == "__torch__":
            return type(name, (_Module,), {})
        if module == "torch" and name.removesuffix("Storage") in _TYPES:
            return _TYPES[name.removesuffix("Storage")]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda values, offset, shape, strides, *_: torch.as_strided(values, shape, strides, offset)
        if module == "torch.jit._pickle" and name.startswith(("build_", "restore_type_tag")):
            return lambda content, *_: content
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")

    def persistent_load(self, found: Any) -> Tensor:
        """Return the values ("storage", type, file, device, number) as a vector.

        Raises:
            UnpicklingError: the file has another number of values.
        """
        _, dtype, file, _, number = found
        if (file, dtype) not in self._values:
            data = bytearray(self._archive.read(f"{self._folder}{file}"))
            self._values[file, dtype] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        values = self._values[file, dtype]
        if len(values) != number:
            raise pickle.UnpicklingError(f"{file} has {len(values)} values, not {number}")
        return values


def _named(module: Any) -> State:
    """Return the tensors in a module and in those below it; a module that is there twice counts once."""
    state: State = {}
    waiting, seen = [("", module)], set()
    while waiting:
        start, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, value in vars(module).items() if isinstance(module, _Module) else ():
            if isinstance(value, Tensor):
                state[f"{start}{name}"] = value
            else:
                waiting.append((f"{start}{name}.", value))
    return state
