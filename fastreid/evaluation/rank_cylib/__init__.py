"""The module path of fast-reid for the compiled rank evaluation, which is in `fastreid.retrieval.rank_cylib`."""
