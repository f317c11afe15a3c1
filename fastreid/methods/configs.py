"""The config of each method. Importing it loads no model, so that a config is cheap to make."""

from fastreid.methods.baseline.config import CONFIG as BASELINE
from fastreid.methods.dcac.config import CONFIG as DCAC
from fastreid.methods.sd_reid.config import CONFIG as SD_REID

METHOD_CONFIGS = (BASELINE, SD_REID, DCAC)
