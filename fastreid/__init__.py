"""fastreid: person re-identification with diffusion models behind one interface."""

__version__ = "0.1.0"
