"""Evaluators with fast-reid's interface: reset, process batches, evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.evaluation.options import Scoring
from fastreid.evaluation.outcome import outcome_of, write_outcomes
from fastreid.evaluation.score import score
from fastreid.retrieval.extraction import evaluation_mode, mirrored
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError
from fastreid.utils.progress import progress


class DatasetEvaluator(ABC):
    """Sees a data set batch by batch, then gives its figures."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything seen."""

    @abstractmethod
    def process(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Take in one batch and what the model made of it."""

    @abstractmethod
    def evaluate(self) -> OrderedDict[str, float | int]:
        """Figures over everything seen, by name; empty in all processes but the main one."""


class ReidEvaluator(DatasetEvaluator):
    """Ranks the gallery for every query; the first `num_query` images seen are the queries.

    With several processes each must be fed a contiguous share, in rank order.
    """

    def __init__(self, cfg: Any, num_query: int, output_dir: str | Path | None = None) -> None:
        """`cfg.TEST` says how to score; `output_dir`, if given, receives what `evaluate_protocols` writes.

        Raises: ValueError if results are to be written but `cfg.DATASETS.TESTS` names several, or if plots are asked
            for and there is no folder for them.
        """
        if cfg.TEST.PLOTS and not output_dir:
            raise ArgumentError("TEST.PLOTS needs an output_dir to draw into")
        if output_dir and len(cfg.DATASETS.TESTS) != 1:
            raise ArgumentError(
                f"an evaluator sees one protocol but DATASETS.TESTS names {cfg.DATASETS.TESTS}: "
                "give no output_dir, or use fastreid.evaluation.evaluate_protocols"
            )
        self._scoring = Scoring.from_config(cfg)
        self._with_plots = cfg.TEST.PLOTS
        self._protocols = cfg.DATASETS.TESTS
        self._num_query = num_query
        self._output_dir = output_dir
        self.reset()

    def reset(self) -> None:
        self._images: list[PersonImage] = []
        self._features: list[Tensor] = []

    def process(self, inputs: Mapping[str, Any], outputs: Tensor) -> None:
        """Args: a batch (`targets`, `camids`, `viewids`, `img_paths`) and descriptors [B, D]."""
        people, cameras, views = (inputs[key].tolist() for key in ("targets", "camids", "viewids"))
        self._images += map(PersonImage, inputs["img_paths"], people, cameras, views)
        self._features.append(outputs.detach().float().cpu())

    def evaluate(self) -> OrderedDict[str, float | int]:
        features = torch.cat(self._features) if self._features else torch.empty(0, 0)
        facts = [[image.path, image.person, image.camera, int(image.view)] for image in self._images]
        images = [PersonImage(*fact) for share in comm.gather_plain(facts) for fact in share]
        features = torch.cat(comm.gather_rows(features))
        if not comm.is_main_process():
            return OrderedDict()
        split = self._num_query
        if not 0 < split < len(images):
            raise ArgumentError(f"num_query={split} leaves no query or no gallery among {len(images)} images")
        query, gallery = images[:split], images[split:]
        result = score(features[:split], features[split:], query, gallery, self._scoring)
        name = self._protocols[0] if self._protocols else "the protocol"
        outcome = outcome_of(result, name, query, gallery, with_plots=self._with_plots)
        if self._output_dir:
            write_outcomes({name: outcome}, Path(self._output_dir))
        return OrderedDict(result.metrics)


def inference_on_dataset(
    model: nn.Module, data_loader: Iterable[Mapping[str, Any]], evaluator: DatasetEvaluator, flip_test: bool = False
) -> OrderedDict[str, float | int]:
    """Show a model every batch, let an evaluator score what it made of them; the interface of fast-reid's function.

    Args:
        model: `model(batch)` gives descriptors in eval mode; its mode is put back.
        data_loader: has a length.
        flip_test: pass on the mean of an image's descriptor and its mirror image's.
    """
    evaluator.reset()
    with evaluation_mode(model), torch.inference_mode():
        for batch in progress(data_loader, len(data_loader), "evaluating"):
            outputs = model(batch)
            if flip_test:
                outputs = (outputs + model(mirrored(batch))) / 2
            evaluator.process(batch, outputs)
    return evaluator.evaluate()
