"""The report of a run on itself: OUTPUT_DIR/report.html."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fastreid.engine.evaluations import build_evaluation
from fastreid.engine.setup import write_config
from fastreid.utils import comm

logger = logging.getLogger(__name__)

REPORT = "report.html"


def write_report(cfg: Any) -> None:
    """Write OUTPUT_DIR/report.html about the last evaluation there, in the main process; nothing without TEST.REPORT.

    If it cannot be made, a warning says why and which command makes it later: the training is finished and keeps its
    results.

    Args:
        cfg: the config of the run.
    """
    if not cfg.TEST.REPORT or not comm.is_main_process():
        return
    if not build_evaluation(cfg).has_report:
        logger.info("no %s is written: %s has no ranked lists, which it shows", REPORT, cfg.MODEL.META_ARCHITECTURE)
        return
    folder = Path(cfg.OUTPUT_DIR)
    page = folder / REPORT
    try:
        from fastreid.evaluation.report import make_report  # Jinja and Matplotlib are slow to import

        if not (folder / "config.yaml").exists():  # a trainer that was built without default_setup
            write_config(cfg)
        make_report({folder.resolve().name: folder}, page)
    except Exception as error:  # of any kind: a training that took days must not fail here
        page.unlink(missing_ok=True)  # that of an earlier evaluation has other figures
        logger.warning(
            "no report was written: %s. Make it with: python tools/make_report.py %s --output %s "
            "(TEST.REPORT False: no report)", str(error) or type(error).__name__, folder, page,
        )  # fmt: skip
        logger.debug("failed in the report", exc_info=True)
    else:
        logger.info("report written to %s", page.resolve())
