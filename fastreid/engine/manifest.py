"""Writes the manifest of a run: the config, data, weights, code, versions and machine that its results come from."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode
from fastreid.engine.fingerprints import split_fingerprint
from fastreid.engine.trainer_base import HookBase
from fastreid.structures import PersonImage
from fastreid.structures.names import relative_names
from fastreid.utils import comm
from fastreid.utils.checkpoint_file import weights_file
from fastreid.utils.display_text import printable
from fastreid.utils.files import atomic_write
from fastreid.utils.manifest import (
    EVALUATION,
    FORMAT,
    TRAINING,
    now,
    read_manifest,
    session,
    sha256_of,
    write_manifest,
)

logger = logging.getLogger(__name__)

Splits = dict[str, dict[str, Iterable[PersonImage]]]
Names = dict[str, dict[str, dict[str, int]]]

ALL_TRAINING = "all training images"
SUBSET = "training_images.txt"


def manifest_of(
    cfg: CfgNode,
    splits: Mapping[str, Mapping[str, Iterable[PersonImage]]],
    names: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What stays the same in all sessions of a run.

    Args:
        cfg: the config as it is used.
        splits: {data set: {split: images}}.
        names: {data set: {"people" or "cameras": {name: id}}} where names are not the ids themselves.
    """
    weights = {"MODEL.WEIGHTS": cfg.MODEL.WEIGHTS}
    if cfg.MODEL.BACKBONE.PRETRAIN:
        weights["MODEL.BACKBONE.PRETRAIN_PATH"] = cfg.MODEL.BACKBONE.PRETRAIN_PATH
    return {
        "format": FORMAT,
        "config": json.loads(json.dumps(cfg)),  # yacs nodes are dicts; tuples become lists
        "seed": cfg.MODEL.SEED,
        "weights": {
            key: {"path": path, "sha256": sha256_of(weights_file(path))} for key, path in weights.items() if path
        },
        "datasets": {
            name: {split: split_fingerprint(images) for split, images in parts.items()}
            for name, parts in splits.items()
        },
        "names": dict(names or {}),
        "sessions": [],
    }


def splits_of(train: Iterable[Any], tests: Iterable[Any]) -> Splits:
    """{data set: {split: images}} of training sets and test protocols."""
    found: Splits = {f"{data.name} (training)": {"train": data.train} for data in train}
    return found | {data.name: {"query": data.query, "gallery": data.gallery} for data in tests}


def names_of(train: Iterable[Any], tests: Iterable[Any]) -> Names:
    """{data set: {"people" or "cameras": {name: id}}} where names are not the ids themselves."""
    found: Names = {}
    for data in (*train, *tests):
        for what in ("person_names", "camera_names", "training_person_names", "training_camera_names"):
            if names := getattr(data, what, {}):
                what = what.removesuffix("_names").replace("person", "people").replace("camera", "cameras")
                found.setdefault(data.name, {})[what.replace("_", " ")] = {name: id_ for id_, name in names.items()}
    return found


def write_subset(cfg: CfgNode, images: Iterable[PersonImage], folder: Path) -> dict[str, Any]:
    """Write the images of DATASETS.SUBSET to a file, a name in each line, and return its entry of the manifest.

    Args:
        cfg: the config.
        images: the training images.
        folder: the folder that gets the file.

    Returns:
        {"subset": mode, ratio, seed, number of images, name and SHA-256 of the file}; {} without a subset.
    """
    keys = cfg.DATASETS.SUBSET
    if keys.MODE == "none":
        return {}
    images = list(images)
    with atomic_write(folder / SUBSET) as file:
        file.writelines(f"{printable(name)}\n" for name in sorted(relative_names(images)))
    return {
        "subset": {
            "mode": keys.MODE,
            "ratio": keys.RATIO,
            "seed": keys.SEED,
            "images": len(images),
            "file": SUBSET,
            "sha256": sha256_of(folder / SUBSET),
        }
    }


class ManifestWriter(HookBase):
    """Writes OUTPUT_DIR/manifest.json; a resumed run adds its session to the earlier ones. Main process only.

    Args:
        cfg: the config.
        make_splits: returns {data set: {split: images}}.
        make_names: returns {data set: {"people" or "cameras": {name: id}}}.
    """

    def __init__(self, cfg: Any, make_splits: Callable[[], Splits], make_names: Callable[[], Names] = dict) -> None:
        self._cfg, self._make_splits, self._make_names = cfg, make_splits, make_names
        self._path = Path(cfg.OUTPUT_DIR) / TRAINING
        self._content: dict[str, Any] = {}

    def before_train(self) -> None:
        """Write the manifest with a new session."""
        sessions = self._earlier_sessions() if self.trainer.start_iter else []
        sessions = [*sessions, session() | {"first_iteration": self.trainer.start_iter}]
        if changed := list(self.trainer.changed_at_resume):
            sessions[-1]["changed_at_resume"] = changed
        splits = self._make_splits()
        subset = write_subset(self._cfg, splits.get(ALL_TRAINING, {}).get("train", []), self._path.parent)
        self._content = manifest_of(self._cfg, splits, self._make_names()) | subset | {"sessions": sessions}
        write_manifest(self._path, self._content)

    def _earlier_sessions(self) -> list[dict[str, Any]]:
        """The earlier sessions of a resumed run; a manifest that cannot be read is renamed."""
        if not self._path.exists():
            return []
        before = read_manifest(self._path) or {}
        sessions = before.get("sessions")
        if isinstance(sessions, list) and all(isinstance(entry, dict) for entry in sessions):
            return sessions
        aside = self._path.with_name(f"{self._path.stem}_damaged{self._path.suffix}")
        self._path.replace(aside)
        logger.warning("%s cannot be read; it is now %s, and a new one is written", self._path, aside.name)
        return []

    def after_train(self) -> None:
        """Record how the session ended."""
        if not self._content:  # another hook has stopped the run before
            return
        trainer, error = self.trainer, sys.exc_info()[1]
        status = "finished" if error is None else f"stopped: {type(error).__name__}: {error}"
        self._content["sessions"][-1] |= {"ended": now(), "status": status, "iterations_done": trainer.iter}
        write_manifest(self._path, self._content)


@contextlib.contextmanager
def evaluation_manifest(
    cfg: Any, make_splits: Callable[[], Splits], make_names: Callable[[], Names] = dict
) -> Iterator[None]:
    """Write OUTPUT_DIR/manifest_evaluation.json around an evaluation; the manifest of a training is not changed."""
    if not comm.is_main_process():
        yield
        return
    path = Path(cfg.OUTPUT_DIR) / EVALUATION
    content = manifest_of(cfg, make_splits(), make_names()) | {"sessions": [session()]}
    write_manifest(path, content)
    status = "stopped"
    try:
        yield
        status = "finished"
    finally:
        content["sessions"][-1] |= {"ended": now(), "status": status}
        write_manifest(path, content)
