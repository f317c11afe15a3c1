"""Reading what a run left in its folder, and telling what is missing and how to make it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastreid.config.files import read_tree
from fastreid.utils.errors import UserError, sentence_of
from fastreid.utils.text import TextError, read_text

Figures = Mapping[str, float]


class ReportError(UserError, RuntimeError):
    """A report cannot be made from what is there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """One stage: its figures, its ranked lists, its training records and its config."""

    name: str  # "stage1"
    title: str  # "stage 1"
    results: dict[str, Figures]
    lists: dict[str, Any]  # as `fastreid.evaluation.ranked_lists` gives them, by protocol
    records: list[dict[str, float]]  # lines of metrics.json, training and evaluation
    config: dict[str, Any]
    config_text: str

    @property
    def chance(self) -> dict[str, Figures]:
        """Percent of a random order by protocol."""
        return {protocol: lists["chance"] for protocol, lists in self.lists.items()}


def read_run(name: str, folder: str | Path) -> Run:
    """Read results.json, ranked_lists.json, metrics.json and config.yaml of a finished run.

    Raises: ReportError naming a missing or broken file and the command that makes it.
    """
    folder = Path(folder)
    text = _parsed(name, folder / "config.yaml", str)
    run = Run(
        name=name,
        title=name.replace("stage", "stage "),
        results=_parsed(name, folder / "results.json", _groups),
        lists=_parsed(name, folder / "ranked_lists.json", _groups),
        records=_parsed(name, folder / "metrics.json", _json_lines),
        config=_parsed(name, folder / "config.yaml", lambda _: read_tree(str(folder / "config.yaml"))),
        config_text=text,
    )
    if set(run.results) != set(run.lists):
        raise ReportError(
            f"{folder}: results.json is about {sorted(run.results)} but ranked_lists.json about "
            f"{sorted(run.lists)}; evaluate again with: {_command(name, folder)}"
        )
    return run


def check_comparable(first: Run, second: Run) -> None:
    """Refuse to put figures side by side that are about different data.

    The chance level depends on the protocol's images only, so two runs must agree on it.
    """
    if set(first.results) != set(second.results):
        raise ReportError(
            f"{first.title} was evaluated on {sorted(first.results)} but {second.title} on "
            f"{sorted(second.results)}; give both the same DATASETS.TESTS"
        )
    for protocol, chance in first.chance.items():
        other = second.chance[protocol]
        if any(abs(chance[figure] - other[figure]) > 1e-9 for figure in chance):
            raise ReportError(
                f"{protocol}: {first.title} and {second.title} were evaluated on different images "
                f"(chance mAP {chance['mAP']:.4f} and {other['mAP']:.4f}); evaluate both again"
            )


def _parsed(name: str, path: Path, parse: Callable[[str], Any]) -> Any:
    command = _command(name, path.parent)
    try:
        return parse(read_text(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ReportError(f"{path} is missing; it is written by: {command}") from error
    except OSError as error:
        raise ReportError(f"cannot read {path}: {sentence_of(error) or error}") from error
    except TextError as error:  # no editor saved it: it is written anew, not converted
        raise ReportError(f"{str(error).partition('; save the file')[0]}; write it again with: {command}") from error
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{path} is broken ({error}); write it again with: {command}") from error


def _json_lines(text: str) -> list[dict[str, float]]:
    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("a line of it is no record")
    return records


def _groups(text: str) -> dict[str, Any]:
    """What a run wrote by protocol."""
    groups = json.loads(text)
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise ValueError("it holds no figures by protocol")
    return groups


def _command(name: str, folder: Path) -> str:
    """The call of the public tool that writes a run's files; what is finished is evaluated again."""
    config = folder / "config.yaml"  # holds every key of the run, if it got that far
    recipe = str(config) if config.is_file() else f"configs/quickstart/{name}.yml"
    return f"python tools/train_net.py --config-file {recipe} --resume OUTPUT_DIR {folder}"
