"""fast-reid's place for Visualizer; it is in `fastreid.evaluation`."""

from fastreid.evaluation.visualizer import Visualizer

__all__ = ["Visualizer"]
