"""Saving and resuming a run: model, optimiser, schedule, scaler and random states in one file."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fastreid.utils import comm
from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint
from fastreid.utils.checkpointed import checkpointed, with_current_names
from fastreid.utils.env import rng_state, set_rng_state
from fastreid.utils.file_io import PathManager
from fastreid.utils.files import atomic_write
from fastreid.utils.periodic_checkpointer import PeriodicCheckpointer
from fastreid.utils.seal import damage_in, is_sealed, plain_values, save_sealed
from fastreid.utils.weights import (
    LoadReport,
    get_missing_parameters_message,
    get_unexpected_parameters_message,
    load_weights,
    own_state_dict,
)

__all__ = [
    "Checkpointer",
    "LoadReport",
    "PathManager",
    "PeriodicCheckpointer",
    "WeightsError",
    "get_missing_parameters_message",
    "get_unexpected_parameters_message",
    "load_weights",
    "read_checkpoint",
]

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"
INTERRUPTED, BEST = "model_interrupted.pth", "model_best.pth"
CONFIG_TEXT = "config_yaml"
"""Name of the text in a checkpoint that says, in YAML, by which config its model is built."""

Position = tuple[int, int]
"""Progress of a run: (last epoch that was finished, iterations done)."""

_NUMBERED = re.compile(r"model_(\d+)\.pth")
_REGULAR = re.compile(r"model_(\d+|final)\.pth")
_RESUMABLE = re.compile(r"model_(\d+|final|interrupted|before_nonfinite|best)\.pth")


class Checkpointer:
    """Writes and reads the checkpoints of one run in ``save_dir``.

    A file is a dict of tensors and plain types: "model", one entry per checkpointable, "rng" (one state per process),
    the text of the config, and the values given to ``save``.

    Args:
        model: the bare model, not its distributed wrapper.
        save_dir: the folder.
        save_to_disk: whether the main process writes; other processes never do.
        average: a WeightAverage of the model, if there is one. "model" is then the average, which is evaluated, and
            "average" holds the raw weights, from which training continues. "weights" says which of them "model" is.
        config_text: the config of the model in YAML, as `fastreid.modeling.trained.config_text` returns it; "" for
            none.
        **checkpointables: objects with state_dict and load_state_dict.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | os.PathLike[str] = "",
        *,
        save_to_disk: bool = True,
        average: Any = None,
        config_text: str = "",
        **checkpointables: Any,
    ) -> None:
        self.model = model
        self.save_dir, self.save_to_disk = Path(save_dir), save_to_disk
        self._config = {CONFIG_TEXT: config_text} if config_text else {}
        self._average = average
        self._checkpointables = checkpointables if average is None else {"average": average, **checkpointables}
        # Position of the checkpoint that was saved or resumed last.
        self._path: Path | None = None
        self._position: Position | None = None

    def save(self, name: str, *, is_last: bool = True, **values: Any) -> Path:
        """Write ``save_dir/name.pth``. Every process must call it; the main one writes.

        Args:
            name: name of the checkpoint.
            is_last: whether the text file last_checkpoint names it.
            **values: further values of plain types, as "epoch" and "iteration".

        Raises:
            DiskError: the disk is full or broken; earlier checkpoints are unchanged.
            TypeError: a value is neither a tensor nor of a plain type; nothing is written.
        """
        path = self.save_dir / f"{name}.pth"
        content = {key: part.state_dict() for key, part in self._checkpointables.items()}
        state = own_state_dict(self.model)
        content = {
            "model": state if self._average is None else self._average.in_place_of(state),
            "weights": "raw" if self._average is None else "averaged",
            **self._config,
            **content,
            "rng": comm.all_gather(rng_state()),
            **values,
        }
        if comm.is_main_process() and self.save_to_disk:
            content = plain_values(content, where=path.name)
            save_sealed(content, path)
            if is_last:
                self._note(path)
            logger.info("saved %s", path)
        if is_last and "epoch" in values:
            self._path, self._position = path, (values["epoch"], values.get("iteration", 0))
        comm.synchronize()
        return path

    def copy(self, source: Path, target: Path, **values: Any) -> None:
        """Write a checkpoint under another name, with other ``values``. Main process only."""
        save_sealed(plain_values(read_checkpoint(source) | values, where=target.name), target)

    def _note(self, path: Path) -> None:
        with atomic_write(self.save_dir / LAST) as file:
            file.write(path.name)

    def load(self, path: str | os.PathLike[str], checkpointables: Iterable[str] | None = None) -> LoadReport:
        """Load the weights of the model from a file, as in fast-reid. See ``load_weights``.

        A model in eval mode must be filled completely, except for classifiers; in training mode, its backbone.

        Args:
            path: path of the file.
            checkpointables: names of further parts to restore; None for all those that the file has, and [] for none.

        Raises:
            WeightsError: unreadable file, one that fills too little of the model, or a part that is missing in the file
                or does not fit.
        """
        report = load_weights(self.model, path, to_evaluate=not self.model.training)
        asked = self._checkpointables if checkpointables is None else list(checkpointables)
        content = read_checkpoint(path) if asked else {}
        has = [key for key in asked if isinstance(content, dict) and key in content and key in self._checkpointables]
        if checkpointables is not None and (absent := [key for key in asked if key not in has]):
            raise WeightsError(
                f"{path}, or this Checkpointer, has no {', '.join(absent)}: leave them out of checkpointables"
            )
        self._restore({key: self._checkpointables[key].load_state_dict for key in has}, content, path)
        return report

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from; fast-reid's method. See ``last``."""
        return self.last() is not None

    def get_checkpoint_file(self) -> str:
        """Return the path of the checkpoint to resume from, "" if there is none; fast-reid's method. See ``last``."""
        return str(self.last() or "")

    def resume_or_load(self, path: str | os.PathLike[str], *, resume: bool = True) -> dict[str, Any]:
        """Restore the last checkpoint of ``save_dir``, or else load weights; fast-reid's method for plain loops.

        Args:
            path: the weights, if there is no checkpoint or `resume` is False; "" for none.
            resume: whether to resume.

        Returns:
            The values given to ``save``, such as "epoch"; {} if nothing was resumed.

        Raises:
            WeightsError: as ``resume`` and ``load``.
        """
        if resume and (last := self.last()):
            return self.resume(last)
        if os.fspath(path):
            self.load(path, checkpointables=[])
        return {}

    def last(self) -> Path | None:
        """Return the path of the checkpoint to resume from, or None if there are no checkpoints.

        It is the one that the file last_checkpoint names, if it is undamaged: every byte is compared with its checksum.
        Otherwise it is the newest undamaged one, by the epoch and iteration in it; if last_checkpoint names a numbered
        one, only those before it count. Damaged checkpoints are logged and skipped.

        Raises:
            WeightsError: there are checkpoints, and all are damaged.
        """
        named = self._named()
        tried = []
        for path in self._candidates(named):
            tried.append(path.name)
            if wrong := _damage(path):
                logger.warning("%s cannot be resumed from: %s", path, wrong)
                continue
            if path != named:
                logger.warning("going on from %s, the newest checkpoint that is whole", path)
            return path
        if not tried:
            return None
        raise WeightsError(
            f"no checkpoint in {self.save_dir} is whole (of {', '.join(tried)}): put one back, or leave out "
            "--resume to start anew"
        )

    def _named(self) -> Path | None:
        """Return what last_checkpoint names; None if the file is missing or does not name a file."""
        note = self.save_dir / LAST
        try:
            name = note.read_text(encoding="utf-8").strip()
            path = self.save_dir / name
            path.is_file()
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # not UTF-8, or an impossible name
            name = ""
        if not name or "\n" in name:
            logger.warning("%s does not name a checkpoint", note)
            return None
        return path

    def _candidates(self, named: Path | None) -> Iterator[Path]:
        """Yield the checkpoint that is named, then others from the newest on."""
        if named is not None:
            yield named
        number = None if named is None else _number_in(named)
        for path, position in self._by_position(_RESUMABLE):
            # A user who names a checkpoint in last_checkpoint may want to go back: later ones do not replace it.
            if path != named and (number is None or position[0] <= number):
                yield path

    @classmethod
    def newest_in(cls, folder: str | os.PathLike[str]) -> Path | None:
        """Return the checkpoint in ``folder`` with the highest epoch and iteration, damaged or not, or None."""
        found = cls(nn.Identity(), folder)._by_position(_RESUMABLE)
        return found[0][0] if found else None

    def _by_position(self, names: re.Pattern[str]) -> list[tuple[Path, Position]]:
        """Return checkpoints with such names and their positions, the newest first."""
        found = [(path, _position_in(path)) for path in self.save_dir.glob("model_*.pth") if names.fullmatch(path.name)]
        return sorted(found, key=lambda item: (item[1], _rank(item[0])), reverse=True)

    def remove_all_but(self, keep: int) -> None:
        """Remove all model_NNNN.pth except the ``keep`` newest; 0 removes none.

        The newest are those with the highest epoch and iteration up to the one that was saved or resumed last. Later
        ones are from before the run went back to an earlier checkpoint; they will be overwritten.
        """
        if not keep or not comm.is_main_process():
            return
        numbered = self._by_position(_NUMBERED)
        reached = [path for path, position in numbered if self._position is None or position <= self._position]
        for path in reached[keep:]:
            path.unlink()

    def tidy(self, keep: int) -> None:
        """Clean up after a process that was killed during a save; call it after a run was resumed.

        Removes a model_interrupted.pth that a later checkpoint, or one of the same iteration, replaces, and checkpoints
        except the ``keep`` newest. Restores a missing last_checkpoint.
        """
        if self._path is None or not comm.is_main_process():
            return
        regular = [path for path, position in self._by_position(_REGULAR) if position == self._position]
        current = next((path for path in regular if not _damage(path)), self._path)
        if current != self._named():
            self._note(current)
        if current.name != INTERRUPTED:
            (self.save_dir / INTERRUPTED).unlink(missing_ok=True)
        self.remove_all_but(keep)

    def set_aside(self) -> list[str]:
        """Rename the checkpoints of an earlier run in the folder to NAME_before.pth; return their new names.

        The newest is renamed last: if the process is killed meanwhile, the earlier run can still be resumed.
        """
        paths = [path for path, _ in reversed(self._by_position(_RESUMABLE))]
        moved = [path.with_stem(f"{path.stem}_before") for path in paths]
        for path, aside in zip(paths[:-1], moved[:-1], strict=True):
            os.replace(path, aside)
        (self.save_dir / LAST).unlink(missing_ok=True)
        if paths:
            os.replace(paths[-1], moved[-1])
        return [path.name for path in moved]

    def checkpoint_of(self, iteration: int) -> Path | None:
        """Return an undamaged checkpoint of an iteration at the end of an epoch; None if there is none."""
        found = (path for path, position in self._by_position(_REGULAR) if position[1] == iteration)
        return next((path for path in found if not _damage(path)), None)

    def resume(self, path: str | os.PathLike[str], content: Any = None) -> dict[str, Any]:
        """Restore everything that ``save`` wrote, and return the values given to it.

        Args:
            path: path of the checkpoint.
            content: what `read_checkpoint` returned for it, if it was read before.

        Raises:
            WeightsError: unreadable file, or one of another model or training set-up.
        """
        content = read_checkpoint(path) if content is None else content
        needed = ["model", *self._checkpointables, "rng"]
        names = [*needed, "weights", CONFIG_TEXT]  # older versions did not write the last two
        absent = [name for name in needed if not isinstance(content, dict) or name not in content]
        if not absent and content.get("weights", "raw") == "averaged" and self._average is None:
            raise WeightsError(f"{path} is of a run that averages its weights: resume it with SOLVER.EMA.ENABLED True")
        if absent:
            raise WeightsError(f"{path} cannot be resumed from: it lacks {', '.join(absent)}; use it as MODEL.WEIGHTS")
        content = content | {"model": with_current_names(self.model, content["model"])}
        self._load(content, path)
        states = content["rng"]
        if len(states) == comm.get_world_size():
            set_rng_state(states[comm.get_rank()])
        else:
            logger.warning("%s is of %d processes: random states start afresh", path, len(states))
        values = {key: value for key, value in content.items() if key not in names}
        if "epoch" in values:
            self._path, self._position = Path(path), (values["epoch"], values.get("iteration", 0))
        return values

    def _load(self, content: dict[str, Any], path: str | os.PathLike[str]) -> None:
        parts: dict[str, Callable[[Any], object]] = {"model": checkpointed(self.model).load_checkpoint_state_dict}
        parts |= {key: part.load_state_dict for key, part in self._checkpointables.items()}
        self._restore(parts, content, path)

    @staticmethod
    def _restore(
        parts: Mapping[str, Callable[[Any], object]], content: Mapping[str, Any], path: str | os.PathLike[str]
    ) -> None:
        for key, load in parts.items():
            try:
                load(content[key])
            except (RuntimeError, ValueError, KeyError) as error:
                raise WeightsError(
                    f"the {key} in {path} does not fit this run; resume with the config it was trained with ({error})"
                ) from error


def _damage(path: Path) -> str:
    """Return what is wrong with a checkpoint, or ""."""
    wrong = damage_in(path)
    if wrong or is_sealed(path):
        return wrong
    try:  # of an earlier version: its own checksums do not cover all that torch reads
        read_checkpoint(path, lazily=True)
    except Exception as error:  # a damaged file may raise anything
        return f"it cannot be read ({error})"
    return ""


def _rank(path: Path) -> int:
    """Return the rank of checkpoints with equal positions: those of the end of an epoch first, model_best.pth last."""
    return 2 if _REGULAR.fullmatch(path.name) else int(path.name != BEST)


def _number_in(path: Path) -> int | None:
    """Return the epoch in the name of a numbered checkpoint."""
    found = _NUMBERED.fullmatch(path.name)
    return int(found[1]) if found else None


def _position_in(path: Path) -> Position:
    """Return epoch and iteration of a checkpoint; if it cannot be read, the epoch in its name.

    The file may be damaged; the caller must check it.
    """
    try:
        content = read_checkpoint(path, lazily=True)
        return int(content["epoch"]), int(content.get("iteration", 0))
    except Exception:  # a damaged file may raise anything
        number = _number_in(path)
        return (-1 if number is None else number), 0
