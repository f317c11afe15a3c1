"""The module path of fast-reid for the compiled rank evaluation, which is in `fastreid.retrieval.rank_cylib`."""

from fastreid.retrieval.rank_cylib.rank_cy import *  # noqa: F403
