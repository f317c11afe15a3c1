"""The config keys of Cluster Contrast, beside those of clustering."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig
from fastreid.config.ranges import POSITIVE, SHARE, one_of

KEYS = {
    # Temperature of the softmax over the prototypes of all clusters.
    "MODEL.LOSSES.CLUSTER.TEMPERATURE": Key(0.05, POSITIVE),
    # Weight of the old prototype: m <- MOMENTUM * m + (1 - MOMENTUM) * z, then unit length.
    "MODEL.LOSSES.CLUSTER.MOMENTUM": Key(0.1, SHARE),
    # Which features of a batch move a prototype: "all" (one after another) or "hard" (the one that is most unlike it).
    "MODEL.LOSSES.CLUSTER.UPDATE": Key("all", one_of("all", "hard")),
}

CONFIG = MethodConfig(models=("ClusterContrast",), keys=KEYS)
