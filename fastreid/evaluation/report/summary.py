"""Settings of the runs: a few of general interest, and those in which the runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
ABSENT = "–"
_NOT_COMPARED = {*SETTINGS.values(), "OUTPUT_DIR"}


def summary_rows(runs: Sequence[Run]) -> list[tuple[str, str, list[str]]]:
    """Return (label, key, value of each run) for `SETTINGS` and for the keys in which the runs differ."""
    rows = [(label, key, [_setting(run.config, key) for run in runs]) for label, key in SETTINGS.items()]
    rows += [(key, key, [_shown(_lookup(run.config, key)) for run in runs]) for key in _differing_keys(runs)]
    rows.append(("iterations", "metrics.json", [_iterations(run) for run in runs]))
    rows.append(("seconds per iteration", "metrics.json", [_seconds(run) for run in runs]))
    return rows


def _differing_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values are not the same in all runs, without those that are shown or name a folder."""
    flat = [dict(_flattened(run.config)) for run in runs]
    keys = [key for key in dict.fromkeys(key for config in flat for key in config) if key not in _NOT_COMPARED]
    return [key for key in keys if any(config.get(key) != flat[0].get(key) for config in flat)]


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _lookup(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return None
        config = config[part]
    return config


def _setting(config: Any, key: str) -> str:
    shown = _shown(_lookup(config, key))
    is_most = key == "SOLVER.IMS_PER_BATCH" and _lookup(config, "SOLVER.FIT_BATCH")
    return f"at most {shown}" if is_most else shown


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return ABSENT if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _iterations(run: Run) -> str:
    return str(max((record["iteration"] for record in run.records), default=0))


def _seconds(run: Run) -> str:
    times = [record["time"] for record in run.records if "time" in record]
    return f"{fmean(times):.3f}" if times else ABSENT
