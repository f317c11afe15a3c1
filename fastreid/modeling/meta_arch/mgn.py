"""fast-reid's place for MGN; it is in `fastreid.methods.baseline`."""

from fastreid.methods.baseline.mgn import MGN

__all__ = ["MGN"]
