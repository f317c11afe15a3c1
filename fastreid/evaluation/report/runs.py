"""Reads the files of a finished run; an error says which is missing and which command writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastreid.config.files import read_tree
from fastreid.evaluation.results import THRESHOLDS
from fastreid.utils.errors import UserError, sentence_of
from fastreid.utils.text import TextError, read_text

Figures = Mapping[str, float]


class ReportError(UserError, RuntimeError):
    """A report cannot be made from the given files; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of train_net.py.

    Attributes:
        name: key of its figures.
        title: name in tables.
        results: figures by protocol.
        lists: as `fastreid.evaluation.ranked_lists` returns them, by protocol.
        thresholds: as `fastreid.evaluation.thresholds` returns them, by protocol; {} without TEST.ROC.
        records: lines of metrics.json, of training and evaluation; [] of a model that was evaluated only.
        config: all keys, as nested dicts.
        config_text: config.yaml.
        folder: its OUTPUT_DIR.
    """

    name: str
    title: str
    results: dict[str, Figures]
    lists: dict[str, Any]
    thresholds: dict[str, Any]
    records: list[dict[str, float]]
    config: dict[str, Any]
    config_text: str
    folder: Path

    @property
    def chance(self) -> dict[str, Figures]:
        """Expected figures of a random order in percent, by protocol."""
        return {protocol: lists["chance"] for protocol, lists in self.lists.items()}


def read_run(name: str, folder: str | Path) -> Run:
    """Read results.json, ranked_lists.json and config.yaml of a finished run; metrics.json and thresholds.json if any.

    Args:
        name: name of the run; "stage1" is shown as "stage 1".
        folder: its OUTPUT_DIR.

    Raises:
        ReportError: a file is missing or broken; the message has the command that writes it.
    """
    folder = Path(folder)
    text = _parsed(folder / "config.yaml", str)
    run = Run(
        name=name,
        title=re.sub(r"^stage(\d+)$", r"stage \1", name),
        results=_parsed(folder / "results.json", _groups),
        lists=_parsed(folder / "ranked_lists.json", _groups),
        thresholds=_parsed(folder / THRESHOLDS, _groups) if (folder / THRESHOLDS).exists() else {},
        records=_parsed(folder / "metrics.json", _json_lines) if (folder / "metrics.json").exists() else [],
        config=_parsed(folder / "config.yaml", lambda _: read_tree(str(folder / "config.yaml"))),
        config_text=text,
        folder=folder,
    )
    if set(run.results) != set(run.lists):
        raise ReportError(
            f"{folder}: results.json is about {sorted(run.results)} but ranked_lists.json about "
            f"{sorted(run.lists)}; evaluate again with: {_command(folder / 'ranked_lists.json')}"
        )
    return run


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that all runs were evaluated on the same protocols and images.

    The chance level depends on the protocol's images only, so the runs must agree on it.

    Raises:
        ReportError: two runs differ.
    """
    first, *others = runs
    for run in others:
        if set(first.results) != set(run.results):
            raise ReportError(
                f"{first.title} was evaluated on {sorted(first.results)} but {run.title} on "
                f"{sorted(run.results)}; give both the same DATASETS.TESTS"
            )
        for protocol, chance in first.chance.items():
            other = run.chance[protocol]
            if any(abs(chance[figure] - other[figure]) > 1e-9 for figure in chance):
                raise ReportError(
                    f"{protocol}: {first.title} and {run.title} were evaluated on different images "
                    f"(chance mAP {chance['mAP']:.4f} and {other['mAP']:.4f}); evaluate both again"
                )


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    command = _command(path)
    try:
        return parse(read_text(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(f"{path} is missing; it is written by: {command}") from error
    except OSError as error:
        raise ReportError(f"cannot read {path}: {sentence_of(error) or error}") from error
    except TextError as error:  # the file is not to be converted but written again
        raise ReportError(f"{str(error).partition('; save the file')[0]}; write it again with: {command}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is broken ({error}); write it again with: {command}") from error


def _json_lines(text: str) -> list[dict[str, float]]:
    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("a line of it is no record")
    return records


def _groups(text: str) -> dict[str, Any]:
    """Parse a JSON object with an entry for each protocol."""
    groups = json.loads(text)
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise ValueError("it holds no figures by protocol")
    return groups


def _command(path: Path) -> str:
    """Return the command that writes a file of a run; a finished training is only evaluated again."""
    config = path.with_name("config.yaml")  # has every key of the run, if the run has come that far
    recipe = str(config) if config.is_file() and path != config else "CONFIG_OF_THE_RUN"
    return f"python tools/train_net.py --config-file {recipe} --resume OUTPUT_DIR {path.parent}"
