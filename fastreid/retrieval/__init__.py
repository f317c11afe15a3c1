"""Retrieval: distances, neighbours, rankings, re-ranking and query expansion of descriptors; knows no protocol."""

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
    "FeatureStore",
    "MatrixDistances",
    "NoValidQueryError",
    "aqe",
    "build_dist",
    "distance_rows",
    "evaluation_mode",
    "jaccard_distances",
    "jaccard_graph",
    "match_images",
    "match_labels",
    "nearest_neighbors",
    "rank_features",
    "rank_queries",
]
