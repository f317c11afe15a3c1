"""What was run, in the few settings a reader asks about first."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from fastreid.evaluation.report.runs import Run

SETTINGS = {
    "method": "MODEL.META_ARCHITECTURE",
    "backbone": "MODEL.BACKBONE.NAME",
    "backbone size": "MODEL.BACKBONE.DEPTH",
    "feature length": "MODEL.BACKBONE.FEAT_DIM",
    "image height, width": "INPUT.SIZE_TEST",
    "trained on": "DATASETS.NAMES",
    "epochs": "SOLVER.MAX_EPOCH",
    "images per batch": "SOLVER.IMS_PER_BATCH",
    "optimiser": "SOLVER.OPT",
    "base learning rate": "SOLVER.BASE_LR",
    "schedule": "SOLVER.SCHED",
    "seed": "MODEL.SEED",
    "distance": "TEST.METRIC",
}
DIFFUSION_SETTINGS = {  # shown where a method generates features
    "what is generated": "MODEL.SDMODEL.TARGET",
    "view control": "MODEL.SDMODEL.VIEW_CONTROL",
    "network predicts": "MODEL.SDMODEL.PREDICTION_TYPE",
    "what trains in the UNet": "MODEL.SDMODEL.UNET_CONFIG.TRAIN",
    "sampling steps": "TEST.SDMODEL.NUM_INFERENCE_STEPS",
    "guidance": "TEST.SDMODEL.INVERSE_TYPE",
    "guidance scale": "TEST.SDMODEL.FULL_GUIDANCE_SCALE",
    "starting noise": "TEST.SDMODEL.NOISE",
    "descriptor parts": "TEST.SDMODEL.PARTS",
    "fusion": "TEST.SDMODEL.FUSION",
    "weight of generated features": "TEST.SDMODEL.GENERATED_WEIGHT",
}
ABSENT = "–"


def summary_rows(runs: Sequence[Run]) -> list[tuple[str, str, list[str]]]:
    """(setting, its key, value per run); diffusion settings are blank for runs without a UNet."""
    rows = [(label, key, [_shown(_lookup(run.config, key)) for run in runs]) for label, key in SETTINGS.items()]
    rows += [
        (label, key, [_shown(_lookup(run.config, key)) if _generates(run) else ABSENT
                      for run in runs])
        for label, key in DIFFUSION_SETTINGS.items()
        if any(_generates(run) for run in runs)
    ]  # fmt: skip
    rows.append(("iterations", "metrics.json", [_iterations(run) for run in runs]))
    rows.append(("seconds per iteration", "metrics.json", [_seconds(run) for run in runs]))
    return rows


def _generates(run: Run) -> bool:
    return bool(_lookup(run.config, "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH"))


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return None
        config = config[part]
    return config


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return ABSENT if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _iterations(run: Run) -> str:
    return str(max((record["iteration"] for record in run.records), default=0))


def _seconds(run: Run) -> str:
    times = [record["time"] for record in run.records if "time" in record]
    return f"{fmean(times):.3f}" if times else ABSENT
