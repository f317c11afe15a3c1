"""The config keys of attributes, which are those of fast-reid's project FastAttr."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig
from fastreid.config.ranges import FLAG, NOT_NEGATIVE, SHARE

KEYS = {
    # Weigh attributes by the share of training images that have them, so that rare ones count.
    "MODEL.LOSSES.BCE.WEIGHT_ENABLED": Key(True, FLAG),
    "MODEL.LOSSES.BCE.SCALE": Key(1.0, NOT_NEGATIVE),
    # Predicted are attributes whose probability is above it.
    "TEST.THRES": Key(0.5, SHARE),
}

CONFIG = MethodConfig(models=("AttrBaseline",), keys=KEYS, loss_models=("AttrBaseline",))
