"""fastreid: person re-identification with diffusion models behind one interface."""

from fastreid.utils.threads import bound_spin

__version__ = "0.1.0"

bound_spin()
