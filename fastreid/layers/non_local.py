"""fast-reid's place and name for the non-local block; it is in `fastreid.layers.attention`."""

from fastreid.layers.attention import NonLocal as Non_local

__all__ = ["Non_local"]
