"""Hooks for evaluation: when it runs, the best checkpoint, and the record of finished evaluations."""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fastreid.engine.report import write_report
from fastreid.engine.trainer_base import EvaluationInterrupted, HookBase, progress_of
from fastreid.utils import comm
from fastreid.utils.checkpoint import BEST, Checkpointer
from fastreid.utils.env import rng_state, set_rng_state
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_write
from fastreid.utils.seal import damage_in
from fastreid.utils.text import TextError, read_json

logger = logging.getLogger(__name__)

RECORD = "last_evaluation.json"

Results = Mapping[str, Mapping[str, float]]


class ResultsError(UserError, TypeError):
    """A user-defined evaluation returned something else than {protocol: {figure: number}}."""


class EvalHook(HookBase):
    """Evaluates every ``period`` epochs (0: never) and after the last.

    A resumed run first repeats an evaluation that was interrupted; a finished run that is resumed does nothing else.
    Random states are restored afterwards, so that more frequent evaluation does not change training.

    Args:
        period: epochs between two evaluations.
        evaluate: returns {protocol: {figure: number}}, or None if it has no figures.
        is_evaluated: whether the checkpoint that the run was resumed from was evaluated.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], Results | None], is_evaluated: Callable[[], bool] = lambda: True
    ) -> None:
        self._period, self._evaluate, self._is_evaluated = period, evaluate, is_evaluated

    def before_train(self) -> None:
        """Repeat an interrupted evaluation; evaluate a finished run."""
        done, at_its_end = self.trainer.start_epoch, not self.trainer.start_iter % self.trainer.iters_per_epoch
        missed = done and at_its_end and self._is_due(done) and not self._is_evaluated()
        if done >= self.trainer.max_epoch or missed:
            self._run()

    def after_epoch(self) -> None:
        """Evaluate if it is due."""
        if self._is_due(self.trainer.epoch + 1):
            self._run()

    def _is_due(self, done: int) -> bool:
        return done == self.trainer.max_epoch or (self._period > 0 and done % self._period == 0)

    def _run(self) -> None:
        trainer, state, interruption = self.trainer, rng_state(), None
        try:
            trainer.is_evaluating = True
            trainer.results = _checked(self._evaluate())
        except EvaluationInterrupted as error:
            interruption = error
        finally:
            trainer.is_evaluating = False
            set_rng_state(state)
        if interruption is not None:
            interruption.stop()
        trainer.storage.put_results(trainer.results)


def _checked(results: Results | None) -> Results:
    """Return the figures of an evaluation, {} for None.

    Raises:
        ResultsError: it returned something else.
    """
    if results is None:
        return {}
    if not isinstance(results, Mapping) or not all(isinstance(figures, Mapping) for figures in results.values()):
        raise ResultsError(
            "the function that EvalHook calls must return {protocol: {figure: number}}, as {'Market1501': {'mAP': "
            f"80.5}}}}, or None, but it returned {reprlib.repr(results)}"
        )
    return results


class _AfterEvaluation(HookBase):
    """Acts once after each evaluation, also after one that a resumed run repeats."""

    _seen: Results | None = None

    def before_train(self) -> None:
        """Act on a repeated evaluation."""
        self._act_once()

    def after_epoch(self) -> None:
        """Act on an evaluation of this epoch."""
        self._act_once()

    def _act_once(self) -> None:
        results = self.trainer.results
        if results and results is not self._seen:
            self._act(results)
            self._seen = results

    def _act(self, results: Results) -> None:
        raise NotImplementedError


class BestCheckpointer(_AfterEvaluation):
    """Writes model_best.pth when "metric", averaged over protocols, is higher than in all earlier evaluations.

    Args:
        checkpointer: writes the file.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self._checkpointer = checkpointer

    def _act(self, results: Results) -> None:
        trainer = self.trainer
        if not all("metric" in figures for figures in results.values()):
            return  # a user-defined evaluator: it is unknown which results are better
        metric = mean_metric(results)
        if trainer.best_metric is not None and metric <= trainer.best_metric:
            return
        best = {"best_metric": metric, "best_iteration": trainer.iter}
        self._checkpointer.save(BEST.removesuffix(".pth"), is_last=False, **(progress_of(trainer) | best))
        # Only now: a run that is stopped before has no such file.
        trainer.best_metric, trainer.best_iteration = metric, trainer.iter
        logger.info(
            "model_best.pth: metric %.2f over %s. It is chosen on the test protocols; "
            "model_final.pth is not", metric, ", ".join(results),
        )  # fmt: skip


def mean_metric(results: Results) -> float:
    """Mean over protocols of "metric", (mAP + Rank-1) / 2 in percent."""
    return fmean(figures["metric"] for figures in results.values())


@dataclass(frozen=True)
class Evaluation:
    """An evaluation whose figures, best checkpoint and line in metrics.json are all written."""

    iteration: int
    epoch: int
    best_metric: float | None
    best_iteration: int | None


class EvaluationRecorder(_AfterEvaluation):
    """Writes last_evaluation.json after all other files of an evaluation; it must follow the hooks that write them.

    A resumed run repeats an evaluation that is not recorded there. Main process only.

    Args:
        folder: folder of the file.
    """

    def __init__(self, folder: str | Path) -> None:
        self._path = Path(folder) / RECORD

    def _act(self, results: Results) -> None:
        trainer = self.trainer
        done = Evaluation(trainer.iter, trainer.epoch, trainer.best_metric, trainer.best_iteration)
        with atomic_write(self._path) as file:
            file.write(json.dumps(asdict(done)) + "\n")


class ReportWriter(_AfterEvaluation):
    """Writes report.html after the last evaluation of a run; it must follow the hooks that write its files.

    Args:
        cfg: the config of the run.
    """

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def _act(self, results: Results) -> None:
        if self.trainer.epoch + 1 >= self.trainer.max_epoch:
            write_report(self._cfg)


def last_evaluation(folder: str | Path) -> Evaluation | None:
    """The evaluation that was finished last; None if there is none, or if its record cannot be read."""
    try:
        return Evaluation(**read_json(Path(folder) / RECORD))
    except (OSError, TextError, TypeError):
        return None


def restore_best(
    checkpointer: Checkpointer, best_metric: float | None, best_iteration: int | None
) -> tuple[float | None, int | None]:
    """Make sure that a resumed run has its model_best.pth.

    A damaged or missing file is written again from the checkpoint of the same iteration. If there is none, a warning is
    logged and the next evaluation writes the file.

    Args:
        checkpointer: checkpointer of the run.
        best_metric: the best metric of the run so far.
        best_iteration: its iteration.

    Returns:
        The best metric and its iteration; both are None if there is no such checkpoint.
    """
    restored = best_metric, best_iteration
    if comm.is_main_process() and best_metric is not None:
        path = checkpointer.save_dir / BEST
        if wrong := damage_in(path):
            source = None if best_iteration is None else checkpointer.checkpoint_of(best_iteration)
            if source is None:
                logger.warning("%s cannot be used: %s. The next evaluation writes it again", path, wrong)
                restored = None, None
            else:
                logger.warning("%s cannot be used: %s. It is written again from %s", path, wrong, source)
                checkpointer.copy(source, path, best_metric=best_metric, best_iteration=best_iteration)
    return comm.broadcast(restored)
