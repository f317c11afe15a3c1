"""Compiled rank evaluation under fast-reid's module path; see `fastreid.retrieval.rank_cylib`."""

from fastreid.retrieval.rank_cylib.rank_cy import *  # noqa: F403
