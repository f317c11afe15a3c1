"""fast-reid's place for the compiled rank evaluation; it is in `fastreid.retrieval.rank_cylib`."""

from fastreid.retrieval.rank_cylib.rank_cy import *  # noqa: F403
