"""Evaluation: one exact definition of the figures, and everything that is read from them."""

from fastreid.evaluation.confidence import bootstrap_intervals
from fastreid.evaluation.evaluator import DatasetEvaluator, ReidEvaluator
from fastreid.evaluation.extraction import FeatureStore, evaluation_mode
from fastreid.evaluation.fused import distance_rows, rank_features
from fastreid.evaluation.matching import NoValidQueryError
from fastreid.evaluation.protocols import check_protocol, evaluate_protocols
from fastreid.evaluation.rank import evaluate_rank, rank_queries
from fastreid.evaluation.results import print_csv_format
from fastreid.evaluation.score import ProtocolResult, score, score_features

__all__ = [
    "DatasetEvaluator",
    "FeatureStore",
    "NoValidQueryError",
    "ProtocolResult",
    "ReidEvaluator",
    "bootstrap_intervals",
    "check_protocol",
    "distance_rows",
    "evaluate_protocols",
    "evaluate_rank",
    "evaluation_mode",
    "print_csv_format",
    "rank_features",
    "rank_queries",
    "score",
    "score_features",
]
