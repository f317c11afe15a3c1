"""Trained models as files of ONNX or torch.export, for programs that do not use this library."""

from fastreid.export.agreement import Agreement
from fastreid.export.export import export_model
from fastreid.export.formats import FORMATS, ModelExportError
from fastreid.export.options import ExportOptions

__all__ = ["FORMATS", "Agreement", "ExportOptions", "ModelExportError", "export_model"]
