"""The losses in MODEL.LOSSES.NAME as rows: name in the log, input, and the keys of their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError
from fastreid.modeling.losses.center import CenterLoss
from fastreid.modeling.losses.cross_entropy import cross_entropy_loss
from fastreid.modeling.losses.focal import focal_loss
from fastreid.modeling.losses.pairwise import pairwise_circleloss, pairwise_cosface
from fastreid.modeling.losses.triplet import triplet_loss
from fastreid.utils.registry import Registry

LOSS_REGISTRY = Registry("loss in MODEL.LOSSES.NAME")
"""Name -> `Loss`."""


@dataclass(frozen=True)
class Loss:
    """One row of the table.

    Args:
        term: name in the log.
        takes: its input, an output of a head: "cls_outputs" [B, C] or "features" [B, D].
        compute: (input, classes [B], **options) -> scalar; or a class of modules that is made with the options and
            with `num_classes` and `feature_dim`, and called with input and classes.
        group: its keys are in MODEL.LOSSES.<group>; SCALE is its weight.
        options: key -> argument of `compute`.
    """

    term: str
    takes: str
    compute: Callable[..., Any]
    group: str
    options: Mapping[str, str] = field(default_factory=dict)


_ROWS = {
    "CrossEntropyLoss": Loss(
        "loss_cls", "cls_outputs", cross_entropy_loss, "CE", {"EPSILON": "eps", "ALPHA": "alpha"}
    ),
    "FocalLoss": Loss("loss_focal", "cls_outputs", focal_loss, "FL", {"ALPHA": "alpha", "GAMMA": "gamma"}),
    "TripletLoss": Loss(
        "loss_triplet", "features", triplet_loss, "TRI",
        {
            "MARGIN": "margin", "NORM_FEAT": "norm_feat", "HARD_MINING": "hard_mining",
            "EXACT_SOFTMAX": "exact_softmax",
        },
    ),
    "CircleLoss": Loss(
        "loss_circle", "features", pairwise_circleloss, "CIRCLE", {"MARGIN": "margin", "GAMMA": "gamma"}
    ),
    "Cosface": Loss("loss_cosface", "features", pairwise_cosface, "COSFACE", {"MARGIN": "margin", "GAMMA": "gamma"}),
    "CenterLoss": Loss("loss_center", "features", CenterLoss, "CENTER", {"ALPHA": "alpha"}),
}  # fmt: skip
for _name, _row in _ROWS.items():
    LOSS_REGISTRY.register(_row, name=_name)


def loss_options(cfg: CfgNode) -> dict[str, Any]:
    """Return the options of all losses, as models of fast-reid have them in `loss_kwargs`.

    Args:
        cfg: MODEL.BACKBONE.FEAT_DIM and MODEL.HEADS.NUM_CLASSES are the sizes for losses with a state per class.

    Returns:
        `loss_names` as in MODEL.LOSSES.NAME, and for each group its options with `scale`: {"ce": {"eps": …}, …}. If the
        tree does not have the keys of a loss, its scale is 1 and its options have their own defaults.
    """
    groups, heads = cfg.MODEL.LOSSES, cfg.MODEL.HEADS
    is_embedded = heads.NECK_FEAT == "after" and heads.EMBEDDING_DIM
    feature_dim = heads.EMBEDDING_DIM if is_embedded else cfg.MODEL.BACKBONE.FEAT_DIM
    found: dict[str, Any] = {"loss_names": tuple(groups.NAME)}
    for row in map(LOSS_REGISTRY.get, LOSS_REGISTRY):
        keys = groups.get(row.group, {})
        found[row.group.lower()] = {"scale": keys.get("SCALE", 1.0)}
        found[row.group.lower()] |= {argument: keys[key] for key, argument in row.options.items() if key in keys}
        if isinstance(row.compute, type):
            found[row.group.lower()] |= {"num_classes": heads.NUM_CLASSES, "feature_dim": feature_dim}
    return found


def require_losses(options: Mapping[str, Any]) -> None:
    """Check that there are losses, for a model that trains with those of the table only.

    Args:
        options: as `loss_options` returns them.

    Raises:
        ConfigError: MODEL.LOSSES.NAME is empty.
    """
    if not options["loss_names"]:
        legal = ", ".join(LOSS_REGISTRY)
        raise ConfigError(f"MODEL.LOSSES.NAME is empty: this model has nothing to train with. Legal: {legal}")


class LossTerms(nn.ModuleDict):
    """The weighted losses of a model: `terms(outputs, targets)` returns {name in the log: scalar}.

    Its children are the losses with a state; the others are functions.

    Args:
        options: as `loss_options` returns them.
        skips_unknown: whether names that are not in the table are skipped, because the model computes these losses.

    Raises:
        RegistryError: a name that is not in the table, without `skips_unknown`.
    """

    def __init__(self, options: Mapping[str, Any], *, skips_unknown: bool = False) -> None:
        super().__init__()
        names = [name for name in options["loss_names"] if not skips_unknown or name in LOSS_REGISTRY]
        self._rows = {name: LOSS_REGISTRY.get(name) for name in names}
        self._options = options
        for name, row in self._rows.items():
            if isinstance(row.compute, type):
                self[name] = row.compute(**self._arguments(row))

    @property
    def inputs(self) -> set[str]:
        """The outputs of a head that are inputs of losses."""
        return {row.takes for row in self._rows.values()}

    def _arguments(self, row: Loss) -> dict[str, Any]:
        return {name: value for name, value in self._options[row.group.lower()].items() if name != "scale"}

    def forward(self, outputs: Mapping[str, Tensor], targets: Tensor, *, only: str = "") -> dict[str, Tensor]:
        """Return the weighted losses.

        Args:
            outputs: outputs of a head in training.
            targets: classes [B].
            only: compute only the losses that take this output; "" computes all.
        """
        terms = {}
        for name, row in self._rows.items():
            if only not in ("", row.takes):
                continue
            taken = outputs[row.takes]
            value = self[name](taken, targets) if name in self else row.compute(taken, targets, **self._arguments(row))
            terms[row.term] = self._options[row.group.lower()]["scale"] * value
        return terms
