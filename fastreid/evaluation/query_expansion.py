"""Query expansion under fast-reid's module path; see `fastreid.retrieval.query_expansion`."""

from fastreid.retrieval.query_expansion import aqe

__all__ = ["aqe"]
