"""Plans the runs that compare backbones: the data, the recipe and the initial weights of each of them.

The settings are those in which pre-training for person re-identification is measured (LUPerson; Diff-Person).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, ConfigError
from fastreid.config.tree import leaves
from fastreid.utils.display_text import exact, exact_percent
from fastreid.utils.suggest import explain_choice

RANDOM = ("random", "none")
"""Paths that stand for random initialisation."""

# What the runs of a comparison differ in.
OWN_KEYS = (
    "DATASETS.NAMES", "DATASETS.TESTS", "DATASETS.SUBSET", "MODEL.BACKBONE.PRETRAIN", "MODEL.BACKBONE.PRETRAIN_PATH",
    "MODEL.SEED", "MODEL.WEIGHTS", "OUTPUT_DIR",
)  # fmt: skip
# Groups of which both recipes must have the same values, so that a backbone is the same network in all runs.
_SHARED = ("MODEL.BACKBONE", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Setting:
    """What the runs of a setting train on; all are tested on the target.

    Args:
        on_source: they train on the sources, and not on the target.
        with_labels: they use the labels of people, with the recipe for them.
        subset: DATASETS.SUBSET.MODE.
        after_source: they start from the model that was trained on the sources.
    """

    on_source: bool = False
    with_labels: bool = True
    subset: str = "none"
    after_source: bool = False

    @property
    def needs_source(self) -> bool:
        """Whether there must be a source."""
        return self.on_source or self.after_source


# A model that adaptation starts from is that of generalization, which is why it comes first.
SETTINGS = {
    "supervised": Setting(),
    "small_scale": Setting(subset="small_scale"),
    "few_shot": Setting(subset="few_shot"),
    "unsupervised": Setting(with_labels=False),
    "generalization": Setting(on_source=True),
    "adaptation": Setting(with_labels=False, after_source=True),
}


@dataclass(frozen=True)
class TransferRun:
    """One run.

    Attributes:
        setting: a name of `SETTINGS`.
        ratio: the share of the training data; None for all of it.
        backbone: the name of its initial weights.
        seed: of the run, and of the subset.
        folder: its OUTPUT_DIR.
        keys: the config keys in which it differs from the others.
        start: the checkpoint that it starts from, another run's; None for the backbone alone.
    """

    setting: str
    ratio: float | None
    backbone: str
    seed: int
    folder: Path
    keys: dict[str, Any] = field(repr=False)
    start: Path | None = None

    @property
    def with_labels(self) -> bool:
        """Whether it uses the labels of people."""
        return SETTINGS[self.setting].with_labels

    @property
    def key(self) -> tuple[str, float | None, str, int]:
        """Setting, ratio, backbone and seed."""
        return self.setting, self.ratio, self.backbone, self.seed

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        share = "" if self.ratio is None else f" {exact_percent(self.ratio)} %"
        return f"{self.setting}{share}, {self.backbone}, seed {self.seed}"


@dataclass(frozen=True)
class Comparison:
    """Backbones that are compared, and where.

    Args:
        backbones: name -> file for MODEL.BACKBONE.PRETRAIN_PATH, or one of `RANDOM`; the others gain over the first.
        settings: names of `SETTINGS`; adaptation adds generalization, whose model it starts from.
        target: the data set that all runs are tested on.
        sources: data sets that adaptation and generalization train on first.
        ratios: shares of the training data, of settings that have subsets.
        num_seeds: number of seeds, from 1.
        output: the folder of the comparison.

    Raises:
        ConfigError: fewer than two backbones, an unknown setting, a missing or wrong source, a ratio or a number of
            seeds out of range, or a name that no folder can have.
    """

    backbones: Mapping[str, str]
    settings: Sequence[str]
    target: str
    sources: Sequence[str]
    ratios: Sequence[float]
    num_seeds: int
    output: Path

    def __post_init__(self) -> None:
        if len(self.backbones) < 2:
            raise ConfigError("--backbones needs two or more NAME=PATH: the first is what the others are compared with")
        for name in self.backbones:
            if not _FOLDER_NAME.fullmatch(name):
                raise ConfigError(f"--backbones: the name {name!r} must be letters, digits, and _ . + - within")
        if len({name.lower() for name in self.backbones}) < len(self.backbones):
            raise ConfigError(f"--backbones: {', '.join(self.backbones)} differ in case only, and folders may not")
        files = ["random" if path in RANDOM else os.path.realpath(path) for path in self.backbones.values()]
        if len(set(files)) < len(files):
            raise ConfigError(f"--backbones: two of {', '.join(self.backbones)} are the same weights")
        for name in self.settings:
            if name not in SETTINGS:
                raise ConfigError(explain_choice("setting", name, SETTINGS))
        needing = [name for name in self.settings if SETTINGS[name].needs_source]
        if needing and not self.sources:
            raise ConfigError(f"{' and '.join(needing)} train on another data set first: name it with --source")
        if len(set(self.sources)) < len(self.sources):
            raise ConfigError(f"--source has the same data set twice: {' '.join(self.sources)}")
        if self.target in self.sources:
            raise ConfigError(f"--source has the target {self.target}, which must not be trained on with labels")
        if wrong := [ratio for ratio in self.ratios if not 0 < ratio <= 1]:
            raise ConfigError(f"--ratios are shares above 0, up to 1 (0.1 is 10 %), got {exact(wrong[0])}")
        if self.num_seeds < 1:
            raise ConfigError(f"--seeds is the number of seeds, 1 or more, got {self.num_seeds}")

    def runs(self) -> Iterator[TransferRun]:
        """Yield all runs, in an order in which each comes after the one that it starts from."""
        wanted = {*self.settings, *(["generalization"] if "adaptation" in self.settings else [])}
        for name, setting in SETTINGS.items():
            ratios = sorted(set(self.ratios)) if setting.subset != "none" else [None]
            for ratio in ratios if name in wanted else []:
                for seed in range(1, self.num_seeds + 1):
                    for backbone in self.backbones:
                        yield self._run(name, ratio, backbone, seed)

    def _run(self, name: str, ratio: float | None, backbone: str, seed: int) -> TransferRun:
        setting, path = SETTINGS[name], self.backbones[backbone]
        start = self._folder("generalization", None, backbone, seed) / "model_final.pth"
        pretrained = "" if path in RANDOM or setting.after_source else path
        keys = {
            "DATASETS.NAMES": list(self.sources) if setting.on_source else [self.target],
            "DATASETS.TESTS": [self.target],
            "DATASETS.SUBSET.MODE": setting.subset,
            "DATASETS.SUBSET.RATIO": 1.0 if ratio is None else ratio,
            "DATASETS.SUBSET.SEED": seed,
            "MODEL.BACKBONE.PRETRAIN": bool(pretrained),
            "MODEL.BACKBONE.PRETRAIN_PATH": pretrained,
            "MODEL.SEED": seed,
            "MODEL.WEIGHTS": str(start) if setting.after_source else "",
        }
        folder = self._folder(name, ratio, backbone, seed)
        return TransferRun(name, ratio, backbone, seed, folder, keys, start if setting.after_source else None)

    def _folder(self, setting: str, ratio: float | None, backbone: str, seed: int) -> Path:
        name = setting if ratio is None else f"{setting}_{exact(ratio)}"
        return self.output / name / backbone / f"seed{seed}"


def refuse_own_keys(words: Sequence[str]) -> None:
    """Check that KEY VALUE pairs leave the keys alone in which the runs differ.

    Args:
        words: the pairs.

    Raises:
        ConfigError: one of them is such a key.
    """
    for key in words[::2]:
        if any(f"{key}.".startswith(f"{own}.") for own in OWN_KEYS):
            raise ConfigError(f"{key} is set by the comparison itself, so it cannot be given as KEY VALUE")


def shared_keys(supervised: CfgNode, unsupervised: CfgNode) -> dict[str, Any]:
    """Return the keys that the unsupervised recipe must take over, so that both have the same network and input.

    Args:
        supervised: the config of the recipe with labels.
        unsupervised: the config of the recipe without.
    """
    theirs = dict(leaves(unsupervised))
    return {
        key: value
        for key, value in leaves(supervised)
        if any(f"{key}.".startswith(f"{group}.") for group in _SHARED)
        and not any(f"{key}.".startswith(f"{own}.") for own in OWN_KEYS)
        and theirs.get(key) != value
    }
