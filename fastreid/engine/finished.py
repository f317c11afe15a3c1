"""Whether a run is finished, for scripts.

    python -m fastreid.engine.finished OUTPUT_DIR [--weights FILE]

Exit status 0: the run was trained to its end and, if its config has tests, evaluated. 1: it was not; --resume continues
it. 3: it was started from other weights than FILE now holds, so it must be trained again. Contents of files are
compared, not their dates.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastreid.config import ConfigError, get_cfg
from fastreid.engine.evaluating import last_evaluation
from fastreid.utils.checkpoint import Checkpointer, read_checkpoint
from fastreid.utils.checkpoint_file import WeightsError
from fastreid.utils.manifest import sha256_of

FINISHED, UNFINISHED, OTHER_WEIGHTS = 0, 1, 3


def state_of(folder: Path, weights: Path | None = None) -> int:
    """Return FINISHED, UNFINISHED or OTHER_WEIGHTS.

    Args:
        folder: OUTPUT_DIR of the run.
        weights: the weights that the run should have started from.
    """
    final, newest = folder / "model_final.pth", Checkpointer.newest_in(folder)
    if newest is None:
        return UNFINISHED
    try:
        content = read_checkpoint(newest, lazily=True)
    except WeightsError:
        return UNFINISHED
    if weights is not None and content.get("started_from") != sha256_of(weights):
        return OTHER_WEIGHTS
    done = last_evaluation(folder)
    is_evaluated = done is not None and done.iteration == content["iteration"] and (folder / "results.json").is_file()
    return FINISHED if newest == final and (is_evaluated or not _has_tests(folder)) else UNFINISHED


def _has_tests(folder: Path) -> bool:
    """Whether the config of a run names protocols to evaluate; True if it cannot be read."""
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(folder / "config.yaml"))
    except ConfigError:
        return True
    return bool(cfg.DATASETS.TESTS)


def main() -> int:
    """Parse the command line and return the exit status."""
    parser = argparse.ArgumentParser(description="Whether a run is finished.")
    parser.add_argument("folder", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="MODEL.WEIGHTS that it should have started from")
    args = parser.parse_args()
    return state_of(args.folder, args.weights)


if __name__ == "__main__":
    sys.exit(main())
