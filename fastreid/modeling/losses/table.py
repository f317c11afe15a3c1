"""Every loss that MODEL.LOSSES.NAME can name: what it is called in the log, what it sees, which keys it reads."""

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

    Attributes:
        term: name in the log.
        sees: which of a head's outputs: "cls_outputs" [B, C] or "features" [B, D].
        compute: (what it sees, classes [B], **options) -> scalar; or a module class, made with the options and with
            `num_classes` and `feature_dim`, that is then called with the first two.
        group: its keys stand below MODEL.LOSSES.<group>; there SCALE weighs it.
        options: key -> argument of `compute`.
    """

    term: str
    sees: str
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
        {"MARGIN": "margin", "NORM_FEAT": "norm_feat", "HARD_MINING": "hard_mining"},
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
    """The options of all losses, as fast-reid's models carry them in `loss_kwargs`.

    Args:
        cfg: MODEL.BACKBONE.FEAT_DIM and MODEL.HEADS.NUM_CLASSES are what losses with a state per class are made for.

    Returns:
        `loss_names` as in MODEL.LOSSES.NAME, and for each group its options with `scale`: {"ce": {"eps": …}, …}. Of a
        loss whose keys the tree does not have, the scale is 1 and the options are left to its own defaults.
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
    """Check that a model that trains with nothing but the losses of the table has one; options as `loss_options`.

    Raises:
        ConfigError: MODEL.LOSSES.NAME is empty.
    """
    if not options["loss_names"]:
        legal = ", ".join(LOSS_REGISTRY)
        raise ConfigError(f"MODEL.LOSSES.NAME is empty: this model has nothing to train with. Legal: {legal}")


class LossTerms(nn.ModuleDict):
    """The losses of a model, weighted: `terms(outputs, targets)` gives {name in the log: scalar}.

    Its children are the losses that have a state; the others are functions.

    Args:
        options: as `loss_options` gives them.
        others_too: names that are not in the table are somebody else's to compute.

    Raises:
        RegistryError: without it, such a name.
    """

    def __init__(self, options: Mapping[str, Any], *, others_too: bool = False) -> None:
        super().__init__()
        names = [name for name in options["loss_names"] if not others_too or name in LOSS_REGISTRY]
        self._rows = {name: LOSS_REGISTRY.get(name) for name in names}
        self._options = options
        for name, row in self._rows.items():
            if isinstance(row.compute, type):
                self[name] = row.compute(**self._arguments(row))

    @property
    def seen(self) -> set[str]:
        """Which outputs of a head some loss sees."""
        return {row.sees for row in self._rows.values()}

    def _arguments(self, row: Loss) -> dict[str, Any]:
        return {name: value for name, value in self._options[row.group.lower()].items() if name != "scale"}

    def forward(self, outputs: Mapping[str, Tensor], targets: Tensor, *, sees: str = "") -> dict[str, Tensor]:
        """Outputs of a head in training, and classes [B]; with `sees` only the losses that see that output."""
        terms = {}
        for name, row in self._rows.items():
            if sees not in ("", row.sees):
                continue
            seen = outputs[row.sees]
            value = self[name](seen, targets) if name in self else row.compute(seen, targets, **self._arguments(row))
            terms[row.term] = self._options[row.group.lower()]["scale"] * value
        return terms
