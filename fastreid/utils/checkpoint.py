"""Saving and resuming a run: model, optimiser, schedule, scaler and random states in one file."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastreid.utils import comm
from fastreid.utils.checkpoint_file import WeightsError, read_checkpoint
from fastreid.utils.env import rng_state, set_rng_state
from fastreid.utils.files import atomic_write
from fastreid.utils.weights import LoadReport, load_weights, own_state_dict

__all__ = ["Checkpointer", "LoadReport", "WeightsError", "load_weights", "read_checkpoint"]

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"


class Checkpointer:
    """Writes and reads the checkpoints of one run in ``save_dir``.

    A file is a dict of tensors and plain types: "model", one entry per checkpointable (anything
    with state_dict and load_state_dict), "rng" (one state per process), and the values given to
    ``save``.
    """

    def __init__(
        self, model: nn.Module, save_dir: str | os.PathLike[str] = "", *, average: Any = None, **checkpointables: Any
    ) -> None:
        """``model`` is the bare model, not its distributed wrapper.

        ``average`` is a WeightAverage of it, if there is one: then "model" is the average, which is what is evaluated,
        and "average" has the raw weights, which training goes on from. "weights" says which "model" is.
        """
        self.model = model
        self.save_dir = Path(save_dir)
        self._average = average
        self._checkpointables = checkpointables if average is None else {"average": average, **checkpointables}

    def save(self, name: str, *, is_last: bool = True, **values: Any) -> Path:
        """Write ``save_dir/name.pth``; if ``is_last``, name it in the text file last_checkpoint.

        Every process must call it; the main one writes.

        Raises:
            TypeError: something is neither a tensor nor a plain type; nothing is written.
        """
        path = self.save_dir / f"{name}.pth"
        content = {key: part.state_dict() for key, part in self._checkpointables.items()}
        state = own_state_dict(self.model)
        content = {
            "model": state if self._average is None else self._average.in_place_of(state),
            "weights": "raw" if self._average is None else "averaged",
            **content,
            "rng": comm.all_gather(rng_state()),
            **values,
        }
        if comm.is_main_process():
            content = _plain(content, where=path.name)
            with _room_for(path), atomic_write(path, "wb") as file:
                torch.save(content, file)
            if is_last:
                with atomic_write(self.save_dir / LAST) as file:
                    file.write(path.name)
            logger.info("saved %s", path)
        comm.synchronize()
        return path

    def load(self, path: str | os.PathLike[str]) -> LoadReport:
        """Fill the model, and nothing else, from a file; fast-reid's method. See ``load_weights``."""
        return load_weights(self.model, path)

    def last(self) -> Path | None:
        """Path of the newest checkpoint that is whole, or None if no run has written any.

        What is damaged is told and passed over: every part of a file is compared with the CRC-32 beside it.

        Raises:
            WeightsError: there were checkpoints, and none is whole.
        """
        note = self.save_dir / LAST
        if not note.exists():
            return None
        named = self.save_dir / note.read_text(encoding="utf-8").strip()
        candidates = [named, *(path for path in self._numbered() if path != named and not _is_newer(path, named))]
        for path in candidates:
            wrong = _damage(path)
            if not wrong:
                return path
            logger.warning("%s cannot be resumed from: %s", path, wrong)
        raise WeightsError(
            f"no checkpoint in {self.save_dir} is whole (of {', '.join(path.name for path in candidates)}): put one "
            f"back, or delete {note} to start anew"
        )

    def remove_all_but(self, keep: int) -> None:
        """Leave the ``keep`` newest model_NNNN.pth; 0 leaves all."""
        if keep and comm.is_main_process():
            for path in self._numbered()[keep:]:
                path.unlink()

    def _numbered(self) -> list[Path]:
        """model_NNNN.pth, the one written last first: an earlier run in the folder may have had higher numbers."""
        found = [path for path in self.save_dir.glob("model_*.pth") if path.stem.removeprefix("model_").isdecimal()]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)

    def resume(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Put back everything that ``save`` wrote and return the plain values given to it.

        Raises:
            WeightsError: unreadable file, or one of another model or training set-up.
        """
        content = read_checkpoint(path)
        names = ["model", "weights", *self._checkpointables, "rng"]
        needed = [name for name in names if name != "weights"]  # older versions did not say it
        absent = [name for name in needed if not isinstance(content, dict) or name not in content]
        if not absent and content.get("weights", "raw") == "averaged" and self._average is None:
            raise WeightsError(f"{path} is of a run that averages its weights: resume it with SOLVER.EMA.ENABLED True")
        if absent:
            raise WeightsError(f"{path} cannot be resumed from: it lacks {', '.join(absent)}; use it as MODEL.WEIGHTS")
        self._load(content, path)
        states = content["rng"]
        if len(states) == comm.get_world_size():
            set_rng_state(states[comm.get_rank()])
        else:
            logger.warning("%s is of %d processes: random states start afresh", path, len(states))
        return {key: value for key, value in content.items() if key not in names}

    def _load(self, content: dict[str, Any], path: str | os.PathLike[str]) -> None:
        load_model = getattr(self.model, "load_checkpoint_state_dict", self.model.load_state_dict)
        parts = {"model": load_model}
        parts |= {key: part.load_state_dict for key, part in self._checkpointables.items()}
        for key, load in parts.items():
            try:
                load(content[key])
            except (RuntimeError, ValueError, KeyError) as error:
                raise WeightsError(
                    f"the {key} in {path} does not fit this run; resume with the config it was trained with ({error})"
                ) from error


def _damage(path: Path) -> str:
    """What is wrong with a file that torch.save wrote, or "": it is an archive, with a CRC-32 for each of its parts."""
    if not path.is_file():
        return "it is gone"
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error) as error:
        return f"it is truncated or no checkpoint ({error})"
    return f"{broken} in it is not what was written" if broken else ""


def _is_newer(path: Path, than: Path) -> bool:
    """Somebody went back on purpose to a checkpoint before it; one that is gone tells nothing."""
    return than.is_file() and path.stat().st_mtime > than.stat().st_mtime


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Explain a disk that is full; what was there before still is."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(
            error.errno,
            f"{path} could not be written: the disk is full ({free:,.0f} MiB are free). Earlier checkpoints are as "
            "they were: make room (SOLVER.KEEP_CHECKPOINTS keeps fewer) and go on with --resume",
        ) from error
    except RuntimeError as error:  # torch's own writer hides what the system said
        if shutil.disk_usage(path.parent).free > 2**20:
            raise
        raise OSError(
            errno.ENOSPC,
            f"{path} could not be written: the disk is full. Earlier checkpoints are as they were: make room "
            "(SOLVER.KEEP_CHECKPOINTS keeps fewer) and go on with --resume",
        ) from error


def _plain(value: Any, *, where: str) -> Any:
    """Return ``value`` with plain dicts; refuse what weights_only loading would refuse."""
    if isinstance(value, dict):
        return {key: _plain(item, where=f"{where}/{key}") for key, item in value.items()}
    for kind in (list, tuple):
        if isinstance(value, kind):
            return kind(_plain(item, where=where) for item in value)
    if isinstance(value, torch.Tensor):
        return value.detach()
    # kind(value): a NumPy float is a float, but pickles as an object.
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise TypeError(f"{where} is a {type(value).__name__}; checkpoints hold tensors and plain types only")
