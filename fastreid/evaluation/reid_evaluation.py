"""fast-reid's place for ReidEvaluator; it is in `fastreid.evaluation.evaluator`."""

from fastreid.evaluation.evaluator import ReidEvaluator

__all__ = ["ReidEvaluator"]
