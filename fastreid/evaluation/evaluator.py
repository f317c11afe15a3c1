"""Evaluators with fast-reid's interface: reset, process batches, evaluate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.evaluation.protocols import MatchedProtocol, summarize
from fastreid.evaluation.results import write_outcomes
from fastreid.evaluation.scoring import score
from fastreid.evaluation.scoring_options import Scoring
from fastreid.retrieval.extraction import BatchLoader, evaluation_mode, mirrored
from fastreid.retrieval.matches import match_images
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError
from fastreid.utils.progress import progress


class DatasetEvaluator(ABC):
    """Base class of evaluators: process a data set batch by batch, then return its figures."""

    @abstractmethod
    def reset(self) -> None:
        """Discard all batches."""

    @abstractmethod
    def process(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Process one batch and the model's outputs for it."""

    @abstractmethod
    def evaluate(self) -> OrderedDict[str, float | int]:
        """Return the figures over all batches, by name; empty in all processes but the main one."""


class ReidEvaluator(DatasetEvaluator):
    """Ranks the gallery for every query; the first `num_query` images are the queries.

    With several processes, each must get a contiguous share of the images, in rank order.
    """

    def __init__(self, cfg: Any, num_query: int, output_dir: str | Path | None = None) -> None:
        """Initialize without images.

        Args:
            cfg: `cfg.TEST` gives the options of scoring.
            num_query: number of queries.
            output_dir: receives the files that `evaluate_protocols` writes; None to write nothing.

        Raises:
            ArgumentError: an `output_dir` for several protocols in `cfg.DATASETS.TESTS`, or plots without a folder.
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
        """Discard all images and descriptors."""
        self._images: list[PersonImage] = []
        self._features: list[Tensor] = []

    def process(self, inputs: Mapping[str, Any], outputs: Tensor) -> None:
        """Store a batch.

        Args:
            inputs: a batch with `targets`, `camids`, `img_paths` and, if views are known, `viewids`.
            outputs: its descriptors [B, D].
        """
        people, cameras = (torch.as_tensor(inputs[key]).tolist() for key in ("targets", "camids"))
        views = inputs["viewids"].tolist() if "viewids" in inputs else [0] * len(people)
        self._images += map(PersonImage, inputs["img_paths"], people, cameras, views)
        self._features.append(outputs.detach().float().cpu())

    def evaluate(self) -> OrderedDict[str, float | int]:
        """Score all images of all processes; the figures are empty in all but the main one.

        Raises:
            ValueError: `num_query` leaves no query or no gallery, or as `score`.
        """
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
        name = self._protocols[0] if self._protocols else "the protocol"
        protocol = MatchedProtocol(name, query, gallery, match_images(query, gallery), {}, {})
        result = score(features[:split], features[split:], query, gallery, self._scoring, matches=protocol.matches)
        assert result is not None  # only if shared
        outcome = summarize(result, protocol, self._scoring, with_plots=self._with_plots)
        if self._output_dir:
            write_outcomes({name: outcome}, Path(self._output_dir))
        return OrderedDict(result.metrics)


def inference_on_dataset(
    model: nn.Module,
    data_loader: BatchLoader,
    evaluator: DatasetEvaluator,
    flip_test: bool = False,
    *,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> OrderedDict[str, float | int]:
    """Run a model on every batch and evaluate its outputs; the interface of fast-reid's function.

    Args:
        model: `model(batch)` returns descriptors in eval mode; its mode is restored.
        data_loader: batches; has a length.
        evaluator: processes each batch.
        flip_test: average each image's descriptor with that of its mirror image.
        autocast: returns the context in which the model runs (TEST.AMP).
    """

    def run(batch: Mapping[str, Any]) -> Any:
        with autocast():
            return model(batch)

    evaluator.reset()
    with evaluation_mode(model), torch.inference_mode():
        for batch in progress(data_loader, len(data_loader), "evaluating"):
            outputs = run(batch)
            if flip_test:
                outputs = (outputs.float() + run(mirrored(batch)).float()) / 2
            evaluator.process(batch, outputs)
    return evaluator.evaluate()
