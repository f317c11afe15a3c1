"""fast-reid's place for query expansion; it is in `fastreid.retrieval`."""

from fastreid.retrieval.query_expansion import aqe

__all__ = ["aqe"]
