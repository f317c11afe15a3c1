"""fast-reid's place for norms; they are in `fastreid.layers.norms`."""

from fastreid.layers.norms import IBN, GhostBatchNorm, get_norm

__all__ = ["IBN", "GhostBatchNorm", "get_norm"]
