"""Compiled rank evaluation under fast-reid's module path; see `fastreid.retrieval.rank_cylib`."""
