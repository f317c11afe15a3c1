"""ClasEvaluator: the accuracy of a classifier, with fast-reid's interface."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastreid.evaluation.evaluator import DatasetEvaluator
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError


class ClasEvaluator(DatasetEvaluator):
    """Share of images whose highest logit is that of their class; for models with MODEL.HEADS.NAME ClasHead.

    Args:
        cfg: the config; no key of it is read, as the accuracy has no options.
        output_dir: must be None or "": this evaluator writes no files.

    Raises:
        ArgumentError: there is an `output_dir`.
    """

    def __init__(self, cfg: Any, output_dir: str | None = None) -> None:
        if output_dir:
            raise ArgumentError(f"ClasEvaluator writes no files: leave out output_dir, got {output_dir!r}")
        self.cfg = cfg
        self.reset()

    def reset(self) -> None:
        """Discard all batches."""
        self._correct, self._total = 0, 0

    def process(self, inputs: Mapping[str, Any], outputs: Tensor) -> None:
        """Count a batch.

        Args:
            inputs: a batch with `targets` [B].
            outputs: its logits [B, C].
        """
        logits, classes = outputs.detach().cpu().float(), torch.as_tensor(inputs["targets"]).cpu()
        if logits.ndim != 2 or len(logits) != len(classes):
            raise ArgumentError(
                f"a classifier must give logits [{len(classes)}, C], got {list(logits.shape)}; set MODEL.HEADS.NAME "
                "ClasHead"
            )
        self._correct += int((logits.argmax(dim=1) == classes).sum())
        self._total += len(classes)

    def evaluate(self) -> OrderedDict[str, float | int]:
        """Return {"Acc@1", "metric"}, both the accuracy in percent; empty in all processes but the main one.

        Raises:
            ArgumentError: no batch was processed.
        """
        shares = comm.all_gather((self._correct, self._total))
        if not comm.is_main_process():
            return OrderedDict()
        correct, total = (sum(values) for values in zip(*shares, strict=True))
        if not total:
            raise ArgumentError("no image was classified: the test loader has no batches")
        share = 100 * correct / total
        return OrderedDict([("Acc@1", share), ("metric", share)])
