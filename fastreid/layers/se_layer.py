"""fast-reid's place and name for squeeze-and-excitation; it is in `fastreid.layers.attention`."""

from fastreid.layers.attention import SqueezeExcite as SELayer

__all__ = ["SELayer"]
