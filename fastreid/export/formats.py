"""The formats of exported files: a graph to bytes, and bytes to a function that runs it."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from fastreid.export.descriptor_module import Inputs
from fastreid.export.tracing import BATCH
from fastreid.utils.errors import UserError

FEATURES = "features"
METADATA, CONFIG = "metadata", "config"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MOST_BYTES = 2**31 - 2**24  # a message of protobuf ends at 2 GiB; some room is for the graph

Run = Callable[[Inputs], Tensor]
"""Inputs -> descriptors [B, D]."""


class ModelExportError(UserError, RuntimeError):
    """A model that cannot be exported, or whose exported file does not compute the same."""


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        suffix: end of the names of files.
        packages: packages that it needs besides PyTorch.
        encode: (graph, names of the inputs, metadata, text of the config) -> the content of a file.
        load: content of a file -> a function that runs it.
    """

    suffix: str
    packages: Sequence[str]
    encode: Callable[[ExportedProgram, Sequence[str], Mapping[str, Any], str], bytes]
    load: Callable[[bytes], Run]

    def require_packages(self) -> None:
        """Check that the packages can be imported.

        Raises:
            ModelExportError: one cannot.
        """
        for package in self.packages:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ModelExportError(
                    f"{self.suffix} files need the packages {', '.join(self.packages)}, and {package} cannot be "
                    f"imported ({error}): pip install 'fastreid[export]'"
                ) from error


def _to_onnx(program: ExportedProgram, names: Sequence[str], metadata: Mapping[str, Any], config: str) -> bytes:
    import onnx

    tensors = [*program.state_dict.values(), *program.constants.values()]
    size = sum(value.nbytes for value in tensors if isinstance(value, Tensor))
    if size > _MOST_BYTES:
        raise ModelExportError(
            f"the model has {size / 2**30:.1f} GiB of weights, and an .onnx file of one piece holds 2 GiB at most: "
            "use --format torch"
        )
    exported = torch.onnx.export(program, verbose=False, input_names=list(names), output_names=[FEATURES])
    assert exported is not None
    axes = [dim for dim in exported.model.graph.inputs[0].shape or () if not isinstance(dim, int)]
    exported.rename_axes({str(axis.value): BATCH for axis in axes})
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {METADATA: json.dumps(metadata), CONFIG: config})
    return proto.SerializeToString()


def _load_onnx(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        (features,) = session.run([FEATURES], {name: value.numpy() for name, value in inputs.items()})
        return torch.from_numpy(features)

    return run


def _to_torch(program: ExportedProgram, names: Sequence[str], metadata: Mapping[str, Any], config: str) -> bytes:
    content = io.BytesIO()
    files = {f"{METADATA}.json": json.dumps(metadata), f"{CONFIG}.yaml": config}
    torch.export.save(program, content, extra_files=files)
    return content.getvalue()


def _load_torch(content: bytes) -> Run:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return module(**inputs)

    return run


FORMATS = {
    "onnx": Format(".onnx", _ONNX_PACKAGES, _to_onnx, _load_onnx),
    "torch": Format(".pt2", (), _to_torch, _load_torch),
}
"""Name of a format -> the format."""
