"""Config files of the SD-ReID release: their keys, model names and defaults -> ours."""

from __future__ import annotations

from pathlib import Path

from fastreid.config.files import read_tree
from fastreid.config.method_config import Origin, Rename
from fastreid.config.notices import notify

RELEASED = str(Path(__file__).with_name("released.yml"))
"""The overlay that selects the behaviour of the released code."""

_UNREAD = "the release reads it nowhere"
_CAMERA = "camera ids do not enter SD-ReID's network"

MODELS = {
    "Baseline_stage1": "SDReIDStage1",
    "Baseline_stage1_3view": "SDReIDStage1",
    "Baseline_stage2_old": "SDReIDStage2",
    "Baseline_stage2_old_3view_2": "SDReIDStage2",
}

# Keys of the release that have no meaning here, in files of any program.
RETIRED = {
    "MODEL.SDMODEL.MOEMNTUM": Rename("MODEL.SDMODEL.MOMENTUM"),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.SWITCH": Rename(why="the release's stage 2 runs with 2 only", legal=(2,)),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.SWITCH2": Rename(why="the release's stage 2 runs with 1 only", legal=(1,)),
    "MODEL.SDMODEL.FIRST_STAGE_CONFIG.PRETRAINED_PATH": Rename(
        why="stage 2 generates features, not images, and does not load the VAE"
    ),
}

# Keys of its own files that have no effect there, or whose effect is the behaviour of this library.
OWN_KEYS = {
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.POSE_QUERY": Rename(why=_UNREAD),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.IN_CHANNEL": Rename(why=_UNREAD),
    "MODEL.LOSSES.CE.VIEW_OREG": Rename(why="the loss that it asks for is commented out in the release"),
    "MODEL.BACKBONE.INNER_SUB": Rename(why="the variant that subtracts the view token is in no recipe"),
    "MODEL.BACKBONE.CAMERA_NUM": Rename(why=_CAMERA),
    "MODEL.BACKBONE.SIE_COE": Rename(why=_CAMERA),
}


def _in_front(model: str, source: str) -> list[tuple[str, dict]]:
    """The release's defaults, which differ from ours; for stage 2, also the behaviour of the released code."""
    sizes: dict[str, object] = {"CON_LEARNER_CONFIG": {"DEPTH": 8, "HEADS": 24}}
    if "_3view" in model:
        sizes["VIEW_NUM"] = 3
    chain: list[tuple[str, dict]] = [("the release's defaults", {"MODEL": {"SDMODEL": sizes}})]
    if MODELS[model] == "SDReIDStage2":
        overlay = "configs/_base_/released.yml"
        notify(f"{source} is a file of the SD-ReID release: released behaviour is selected ({overlay})")
        chain.append((RELEASED, read_tree(RELEASED)))
    return chain


RELEASE = Origin(
    models=MODELS,
    names={"MODEL.BACKBONE.NAME": {"build_vit_prompt": "build_vit_backbone"}},
    retired=RETIRED,
    own_keys=OWN_KEYS,
    strict=("SDReIDStage2",),
    in_front=_in_front,
)
