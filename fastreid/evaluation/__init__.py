"""Evaluation: protocols, figures, confidence intervals, plots and reports."""

from fastreid.evaluation.clas_evaluator import ClasEvaluator
from fastreid.evaluation.evaluator import DatasetEvaluator, ReidEvaluator, inference_on_dataset
from fastreid.evaluation.expected import check_expected_results, expected_figures, verify_results
from fastreid.evaluation.protocols import MatchedProtocol, check_protocol, evaluate_protocols
from fastreid.evaluation.rank import evaluate_rank
from fastreid.evaluation.results import print_csv_format
from fastreid.evaluation.roc import evaluate_roc, roc_curve
from fastreid.evaluation.scoring import ProtocolResult, score, score_distances, score_features
from fastreid.evaluation.scoring_options import Expansion, Reranking, Scoring
from fastreid.evaluation.statistics import bootstrap_intervals
from fastreid.evaluation.testing import flatten_results_dict
from fastreid.retrieval.compiled_engine import distance_rows, rank_features
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.extraction import FeatureStore, evaluation_mode
from fastreid.retrieval.matches import NoValidQueryError, match_images, match_labels
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.retrieval.query_expansion import aqe
from fastreid.retrieval.ranking import rank_queries
from fastreid.retrieval.reranking import jaccard_distances, jaccard_graph
from fastreid.retrieval.torch_engine import build_dist

__all__ = [
    "ClasEvaluator",
    "DatasetEvaluator",
    "Expansion",
    "FeatureStore",
    "MatchedProtocol",
    "MatrixDistances",
    "NoValidQueryError",
    "ProtocolResult",
    "ReidEvaluator",
    "Reranking",
    "Scoring",
    "aqe",
    "bootstrap_intervals",
    "build_dist",
    "check_expected_results",
    "check_protocol",
    "distance_rows",
    "evaluate_protocols",
    "evaluate_rank",
    "evaluate_roc",
    "evaluation_mode",
    "expected_figures",
    "flatten_results_dict",
    "inference_on_dataset",
    "jaccard_distances",
    "jaccard_graph",
    "match_images",
    "match_labels",
    "nearest_neighbors",
    "print_csv_format",
    "rank_features",
    "rank_queries",
    "roc_curve",
    "score",
    "score_distances",
    "score_features",
    "verify_results",
]
