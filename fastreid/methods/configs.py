"""The config of each method. Importing it loads no model, so that a config is cheap to make."""

from fastreid.labeling.config import CLASSIFIER as LABELING_CLASSIFIER
from fastreid.labeling.config import CONFIG as LABELING
from fastreid.methods.attributes.config import CONFIG as ATTRIBUTES
from fastreid.methods.baseline.config import CONFIG as BASELINE
from fastreid.methods.cluster_contrast.config import CONFIG as CLUSTER_CONTRAST
from fastreid.methods.dcac.config import CONFIG as DCAC
from fastreid.methods.diffusion_reid.config import CONFIG as DIFFUSION_REID
from fastreid.methods.distillation.config import CONFIG as DISTILLATION
from fastreid.methods.distillation.config import OVERHAUL
from fastreid.methods.pisl.config import CONFIG as PISL
from fastreid.methods.sd_reid.config import CONFIG as SD_REID

METHOD_CONFIGS = (
    *(BASELINE, SD_REID, DCAC, LABELING, LABELING_CLASSIFIER, CLUSTER_CONTRAST, PISL, DIFFUSION_REID),
    *(DISTILLATION, OVERHAUL, ATTRIBUTES),
)
