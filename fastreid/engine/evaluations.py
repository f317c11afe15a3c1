"""The kinds of evaluation that a model may have: a ranking of galleries, or attributes of people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastreid.config import CfgNode
from fastreid.engine.summary import attributes_table, valid_queries_table
from fastreid.evaluation.attributes import check_attributes, evaluate_attributes
from fastreid.evaluation.protocols import check_protocol, evaluate_protocols
from fastreid.modeling.model import ATTRIBUTES, RANKING, evaluation_of


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation.

    Args:
        check: (cfg, data sets that are trained on, data sets that are tested) -> what `run` and `table` take; raises a
            ConfigError if they cannot be evaluated.
        run: evaluates a model, with the arguments of `evaluate_protocols`.
        table: a table of what is tested.
        has_report: whether it writes the ranked lists that report.html shows.
    """

    check: Callable[[CfgNode, Sequence[Any], Sequence[Any]], Sequence[Any]]
    run: Callable[..., dict[str, dict[str, float | int]]]
    table: Callable[[Sequence[Any]], str]
    has_report: bool


def _check_protocols(cfg: CfgNode, trained: Sequence[Any], tested: Sequence[Any]) -> Sequence[Any]:
    return [check_protocol(dataset) for dataset in tested]


EVALUATIONS = {
    RANKING: Evaluation(_check_protocols, evaluate_protocols, valid_queries_table, has_report=True),
    ATTRIBUTES: Evaluation(check_attributes, evaluate_attributes, attributes_table, has_report=False),
}


def build_evaluation(cfg: CfgNode) -> Evaluation:
    """Return the evaluation of the model of a config, as `ReidModel.evaluation` names it.

    Args:
        cfg: the config.
    """
    return EVALUATIONS[evaluation_of(cfg)]
