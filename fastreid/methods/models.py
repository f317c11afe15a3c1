"""The models of all methods. Importing this registers them."""

from fastreid.methods.attributes.attr_baseline import AttrBaseline
from fastreid.methods.baseline.baseline import Baseline
from fastreid.methods.baseline.mgn import MGN
from fastreid.methods.cluster_contrast.cluster_contrast import ClusterContrast
from fastreid.methods.dcac.dcac import DCAC
from fastreid.methods.diffusion_reid.generator import DiffusionReID
from fastreid.methods.distillation.distiller import Distiller, DistillerOverhaul
from fastreid.methods.pisl.pisl import PISL
from fastreid.methods.sd_reid.stage1 import SDReIDStage1
from fastreid.methods.sd_reid.stage2 import SDReIDStage2
from fastreid.modeling.model import META_ARCH_REGISTRY

_MODELS = (
    *(Baseline, MGN, Distiller, DistillerOverhaul, AttrBaseline),
    *(SDReIDStage1, SDReIDStage2, DCAC, ClusterContrast, PISL, DiffusionReID),
)
for _model in _MODELS:
    META_ARCH_REGISTRY.register(_model)

__all__ = [
    *("DCAC", "MGN", "PISL", "AttrBaseline", "Baseline", "ClusterContrast", "DiffusionReID"),
    *("Distiller", "DistillerOverhaul", "SDReIDStage1", "SDReIDStage2"),
]
