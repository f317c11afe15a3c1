"""Keys and names of older or official files -> ours; each one is told when it is met, once.

Two sources: keys that fast-reid itself renamed over its versions, and the files of the SD-ReID release, whose
meta-architecture names tell them apart.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

logger = logging.getLogger(__name__)

RELEASED = str(Path(__file__).with_name("released.yml"))


@dataclass(frozen=True)
class Rename:
    """What became of a key.

    Attributes:
        key: its name here; "" if it has none, and its value is not needed.
        why: a remark for the user.
        values: old value -> new one, where they differ.
        legal: the only values with which the release's stage 2 runs, if not all are.
    """

    key: str = ""
    why: str = ""
    values: Mapping[Any, Any] | None = None
    legal: tuple[Any, ...] = ()


_FLAGS = "fast-reid made it a group of keys"
_UNREAD = "the release reads it nowhere"
_CAMERA = "camera ids do not enter SD-ReID's network"

# Keys that fast-reid renamed or retired; users' files still have them.
RETIRED: dict[str, Rename] = {
    "SOLVER.MAX_ITER": Rename("SOLVER.MAX_EPOCH", "it has always counted epochs"),
    "SOLVER.DELAY_ITERS": Rename("SOLVER.DELAY_EPOCHS", "it has always counted epochs"),
    "SOLVER.FP16_ENABLED": Rename("SOLVER.AMP.ENABLED"),
    "SOLVER.LOG_PERIOD": Rename(why="the log has its own pace"),
    "INPUT.REA.MEAN": Rename("INPUT.REA.VALUE"),
    "INPUT.DO_FLIP": Rename("INPUT.FLIP.ENABLED", _FLAGS),
    "INPUT.FLIP_PROB": Rename("INPUT.FLIP.PROB", _FLAGS),
    "INPUT.DO_PAD": Rename("INPUT.PADDING.ENABLED", _FLAGS),
    "INPUT.PADDING_MODE": Rename("INPUT.PADDING.MODE", _FLAGS),
    "INPUT.PADDING_SIZE": Rename("INPUT.PADDING.SIZE", _FLAGS),
    "INPUT.DO_AUTOAUG": Rename("INPUT.AUTOAUG.ENABLED", _FLAGS),
    "INPUT.DO_AUGMIX": Rename("INPUT.AUGMIX.ENABLED", _FLAGS),
    "TEST.FLIP_ENABLED": Rename("TEST.FLIP.ENABLED", _FLAGS),
    "MODEL.HEADS.IN_FEAT": Rename("MODEL.BACKBONE.FEAT_DIM"),
    "MODEL.LOSSES.TRI.USE_COSINE_DIST": Rename("MODEL.LOSSES.TRI.NORM_FEAT"),
    "DATALOADER.PK_SAMPLER": Rename(
        "DATALOADER.SAMPLER_TRAIN", values={True: "NaiveIdentitySampler", False: "TrainingSampler"}
    ),
    # SD-ReID's spelling.
    "MODEL.SDMODEL.MOEMNTUM": Rename("MODEL.SDMODEL.MOMENTUM"),
}

# Keys that projects around fast-reid add to their own trees, and such as have no other name: what to do instead.
ADD_ONS: dict[str, str] = {
    "MODEL.LOSSES.BCE": "FastAttr's; attributes of people are not part of this version",
    "TEST.THRES": "FastAttr's; attributes of people are not part of this version",
    "DATASETS.REC_PATH": "FastFace's; record files are not read: unpack them, and name the images in DATASETS.NAMES",
    "MODEL.BACKBONE.DROPOUT": "FastFace's, of a backbone that is not part of this version: see build_timm_backbone",
    "MODEL.HEADS.PFC": "FastFace's; MODEL.HEADS.CLS_LAYER ArcSoftmax and CosSoftmax are over all classes",
    "TEST.RECALLS": "FastRetri's; Rank-1, Rank-5 and Rank-10 are what is reported",
    "DATASETS.RM_LT": "NAIC20's; let the class of the data set leave out the people with few images",
    "TEST.SAVE_DISTMAT": "NAIC20's; fastreid.evaluation.score_features gives the distances",
    "TEST.DSR": "PartialReID's; its head is not part of this version",
    "TEST.EXPECTED_RESULTS": "detectron2's; compare results.json",
    "SOLVER.FREEZE_FC_ITERS": "of an older fast-reid; SOLVER.FREEZE_ITERS freezes what MODEL.FREEZE_LAYERS names",
    "SOLVER.SWA": "of an older fast-reid; SOLVER.EMA averages weights",
}

# Keys that only the release has.
_SWITCHES: dict[str, Rename] = {
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.SWITCH": Rename(why="the release's stage 2 runs with 2 only", legal=(2,)),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.SWITCH2": Rename(why="the release's stage 2 runs with 1 only", legal=(1,)),
}

# Defaults of the release that differ from this library's: a file of its relies on them.
OFFICIAL_DEFAULTS: dict[str, Any] = {
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.DEPTH": 8,
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.HEADS": 24,
}

# Keys of SD-ReID's own files that mean nothing there, or nothing but what this library does anyway.
OFFICIAL: dict[str, Rename] = {
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.POSE_QUERY": Rename(why=_UNREAD),
    "MODEL.SDMODEL.CON_LEARNER_CONFIG.IN_CHANNEL": Rename(why=_UNREAD),
    "MODEL.LOSSES.CE.VIEW_OREG": Rename(why="the loss that it asks for is commented out in the release"),
    "MODEL.BACKBONE.INNER_SUB": Rename(why="the variant that subtracts the view token is in no recipe"),
    "MODEL.BACKBONE.CAMERA_NUM": Rename(why=_CAMERA),
    "MODEL.BACKBONE.SIE_COE": Rename(why=_CAMERA),
}

# Registered names of the release: key -> old value -> ours.
NAMES: dict[str, dict[str, str]] = {
    "MODEL.BACKBONE.NAME": {"build_vit_prompt": "build_vit_backbone"},
    "MODEL.META_ARCHITECTURE": {
        "Baseline_stage1": "SDReIDStage1",
        "Baseline_stage1_3view": "SDReIDStage1",
        "Baseline_stage2_old": "SDReIDStage2",
        "Baseline_stage2_old_3view_2": "SDReIDStage2",
    },
}


def modernise(trees: list[tuple[str, dict]]) -> list[tuple[str, dict]]:
    """Translate a chain of (source, tree), each to be merged over those before it, and tell what was translated.

    A chain that has a meta-architecture of the release gets what the release's own defaults would add in front, and
    for stage 2 the released behaviour (`RELEASED`): whatever the chain itself sets wins.

    Raises:
        ValueError: a value of a retired key that has no meaning, or an old and a new name of one key in one file.
    """
    chain = [(source, dict(_leaves(tree))) for source, tree in trees]
    named = [(values["MODEL.META_ARCHITECTURE"], source) for source, values in chain if _names_architecture(values)]
    architecture, where = named[-1] if named else ("", "")
    is_official = architecture in NAMES["MODEL.META_ARCHITECTURE"]
    is_stage2 = is_official and NAMES["MODEL.META_ARCHITECTURE"][architecture] == "SDReIDStage2"
    translated = [
        (source, _tree(_translated(values, source, is_official=is_official, is_stage2=is_stage2), source))
        for source, values in chain
    ]
    if not is_official:
        return translated
    defaults = OFFICIAL_DEFAULTS | ({"MODEL.SDMODEL.VIEW_NUM": 3} if "_3view" in architecture else {})
    in_front = [("the release's defaults", _tree(defaults, "the release's defaults"))]
    if is_stage2:
        tell(f"{where} is a file of the SD-ReID release: released behaviour is selected (configs/_base_/released.yml)")
        with open(RELEASED, encoding="utf-8") as file:
            in_front.append((RELEASED, yaml.safe_load(file)))
    return in_front + translated


def _names_architecture(values: Mapping[str, Any]) -> bool:
    return isinstance(values.get("MODEL.META_ARCHITECTURE"), str)


def _translated(values: Mapping[str, Any], source: str, *, is_official: bool, is_stage2: bool) -> dict[str, Any]:
    table = RETIRED | _SWITCHES | (OFFICIAL if is_official else {})
    found: dict[str, Any] = {}
    for key, value in values.items():
        old = key
        if key in table:
            key, value = _rename(key, value, table[key], source, is_stage2=is_stage2)
        if isinstance(value, str) and value in NAMES.get(key, ()):
            tell(f"{source}: {key} {value} is called {NAMES[key][value]} here")
            value = NAMES[key][value]
        if key and key in found:
            raise ValueError(f"{source} has both {old} and {key}, two names of one key; keep one")
        if key:
            found[key] = value
    return found


def _rename(key: str, value: Any, rename: Rename, source: str, *, is_stage2: bool) -> tuple[str, Any]:
    if is_stage2 and rename.legal and value not in rename.legal:
        raise ValueError(f"{key} in {source} is {value!r}: {rename.why}")
    why = f" ({rename.why})" if rename.why else ""
    if not rename.key:
        tell(f"{source}: {key} is not needed{why}")
        return "", None
    tell(f"{source}: {key} is called {rename.key} here{why}")
    if rename.values is not None:
        if value not in list(rename.values):
            raise ValueError(f"{key} in {source} is {value!r}; legal: {', '.join(map(str, rename.values))}")
        value = rename.values[value]
    return rename.key, value


def _leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots and their values; an empty group is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tree(values: Mapping[str, Any], source: str) -> dict:
    tree: dict = {}
    for key, value in values.items():
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise ValueError(f"{source} sets {key} both as a value and as a group of keys; keep one")
        node[last] = value
    return tree


@cache
def tell(sentence: str) -> None:
    """Log a sentence once, and keep it for the log of the run that the config is for."""
    NOTICES.append(sentence)
    logger.warning("%s", sentence)


NOTICES: list[str] = []
