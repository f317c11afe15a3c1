"""fast-reid's place for Baseline; it is in `fastreid.methods.baseline`."""

from fastreid.methods.baseline.baseline import Baseline

__all__ = ["Baseline"]
