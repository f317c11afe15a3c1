"""The methods: a folder each. Importing this registers their models."""

from fastreid.methods.baseline import MGN, Baseline
from fastreid.methods.sd_reid import SDReIDStage1, SDReIDStage2

__all__ = ["MGN", "Baseline", "SDReIDStage1", "SDReIDStage2"]
