"""Backbone, head and losses of a config (fast-reid's Baseline), and MGN."""

from fastreid.methods.baseline.baseline import Baseline
from fastreid.methods.baseline.mgn import MGN
from fastreid.modeling.model import META_ARCH_REGISTRY

META_ARCH_REGISTRY.register(Baseline)
META_ARCH_REGISTRY.register(MGN)

__all__ = ["MGN", "Baseline"]
