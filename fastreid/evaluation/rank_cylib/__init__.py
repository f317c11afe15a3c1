"""fast-reid's place for the compiled rank evaluation; it is in `fastreid.retrieval.rank_cylib`."""
