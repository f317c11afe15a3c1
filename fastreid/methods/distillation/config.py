"""The config keys of distillation; KD.MODEL_CONFIG and KD.MODEL_WEIGHTS are fast-reid's."""

from __future__ import annotations

from fastreid.config.method_config import Key, MethodConfig, Origin
from fastreid.config.ranges import NAMES, NOT_NEGATIVE, POSITIVE, one_of

DIVERGENCES = ("js", "kl")

KEYS = {
    # Checkpoints of the teachers. None: the model can only be evaluated.
    "KD.MODEL_WEIGHTS": Key([], NAMES, is_path=True),
    # A config file for each of them; []: the configs that the checkpoints carry.
    "KD.MODEL_CONFIG": Key([], NAMES, is_path=True),
    # Between the softmax of both: "js", the mean of the two Kullback-Leibler divergences, as fast-reid has it under the
    # name Jensen-Shannon; or "kl", that of the student from the teacher (Hinton et al., 2015).
    "KD.DIVERGENCE": Key("js", one_of(*DIVERGENCES)),
    # Logits are divided by it; the divergence is multiplied by its square.
    "KD.TEMPERATURE": Key(16.0, POSITIVE),
    # Weight of the divergence.
    "KD.SCALE": Key(1.0, NOT_NEGATIVE),
}
OVERHAUL_KEYS = {
    # Weight of the distances of feature maps, which are divided by 10,000 before, as in fast-reid.
    "KD.OVERHAUL.SCALE": Key(1.0, NOT_NEGATIVE),
}

_MODELS = ("Distiller", "DistillerOverhaul")
# fast-reid's name of ResNets that also return their maps.
_FAST_REID = Origin(
    models={}, names={"MODEL.BACKBONE.NAME": {"build_resnet_backbone_distill": "build_resnet_backbone"}}
)
CONFIG = MethodConfig(models=_MODELS, keys=KEYS, loss_models=_MODELS, origin=_FAST_REID)
OVERHAUL = MethodConfig(models=("DistillerOverhaul",), keys=OVERHAUL_KEYS)
