"""Evaluation of person attributes: mean accuracy of attributes; accuracy, precision, recall and F1 of images.

Li et al., "A Richly Annotated Dataset for Pedestrian Attribute Recognition", 2016, section 4 (RAP).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode, ConfigError, require_defaults
from fastreid.evaluation.results import print_csv_format, write_json
from fastreid.retrieval.extraction import BatchLoader, FeatureStore, my_share
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError
from fastreid.utils.skipped import describe_skipped

logger = logging.getLogger(__name__)

ATTRIBUTE_FIGURES = ("mA", "accuracy", "precision", "recall", "F1", "metric", "images")
# Keys of rankings.
_NOT_READ = (
    *("TEST.METRIC", "TEST.SINGLE_SHOT", "TEST.RECALLS", "TEST.BREAKDOWN", "TEST.PLOTS", "TEST.ROC.ENABLED"),
    *("TEST.DBA.ENABLED", "TEST.AQE.ENABLED", "TEST.RERANK.ENABLED", "DATASETS.COMBINEALL"),
)
_SHOWN = 6

Results = OrderedDict[str, dict[str, float | int]]


def attribute_figures(
    probabilities: Tensor, attributes: Tensor, names: Sequence[str], threshold: float = 0.5
) -> dict[str, float | int]:
    """Return the figures of `ATTRIBUTE_FIGURES` in percent, and "mA/NAME", the mean accuracy of each attribute.

    The mean accuracy of an attribute is (TP / P + TN / N) / 2, over all images; mA is its mean. Accuracy, precision and
    recall are means over the images that have an attribute: |A and B| / |A or B|, |A and B| / |B| and |A and B| / |A|
    for true attributes A and predicted ones B; the precision is 0 without predictions. F1 is 2 PR / (P + R) of the
    means. "metric", which chooses model_best.pth, is mA.

    Args:
        probabilities: [N, A].
        attributes: [N, A] of 0 and 1.
        names: of the A attributes. One that all images have, or none, has no mean accuracy and is left out of mA.
        threshold: predicted are attributes whose probability is above it.

    Raises:
        ArgumentError: another shape, no image has an attribute, or no attribute has a mean accuracy.
    """
    if probabilities.shape != attributes.shape or attributes.shape[1:] != (len(names),):
        raise ArgumentError(
            f"probabilities are {list(probabilities.shape)}, attributes {list(attributes.shape)}, with {len(names)} "
            "names: the model must give one probability for each attribute (MODEL.HEADS.NUM_CLASSES)"
        )
    found, true = probabilities > threshold, attributes > 0.5
    positives, negatives = true.sum(0).double(), (~true).sum(0).double()
    accuracies = ((found & true).sum(0) / positives + (~found & ~true).sum(0) / negatives) / 2
    known = (positives > 0) & (negatives > 0)
    counted = true.any(1)
    if not known.any() or not counted.any():
        raise ArgumentError("the test images have no attribute that some of them have and others have not")
    both, predicted = (found & true).sum(1)[counted].double(), found.sum(1)[counted]
    accuracy = (both / (found | true).sum(1)[counted]).mean().item()
    precision = (both / predicted.clamp(min=1)).mean().item()
    recall = (both / true.sum(1)[counted]).mean().item()
    mean = accuracies[known].mean().item()
    shares = {
        "mA": mean,
        "accuracy": accuracy,
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "metric": mean,
    }
    each = {f"mA/{name}": accuracies[k].item() for k, name in enumerate(names) if known[k]}
    percent = {name: 100 * share for name, share in (shares | each).items()}
    overall = {name: percent.pop(name) for name in shares}
    return {**overall, "images": len(true), **percent}


def check_attributes(cfg: CfgNode, trained: Sequence[Any], tested: Sequence[Any]) -> Sequence[Any]:
    """Check, before the model runs, that data sets have the attributes of the model.

    Args:
        cfg: the config.
        trained: data sets that are trained on.
        tested: data sets whose queries are tested.

    Returns:
        The data sets that are tested.

    Raises:
        ConfigError: a data set has no attributes, other ones than the first, or another number than the model; an
            image has none; no test images; a key of rankings is set.
    """
    require_defaults(cfg, _NOT_READ, "attributes are not ranked, and are trained on training images only")
    sets = [*trained, *tested]
    for data in sets:
        names = list(getattr(data, "attribute_names", ()))
        if not names:
            raise ConfigError(
                f"{data.name} has no attributes, which {cfg.MODEL.META_ARCHITECTURE} needs: take data sets that have, "
                "such as PA100K and Market1501Attr, in DATASETS.NAMES and DATASETS.TESTS"
            )
        if names != (first := list(sets[0].attribute_names)):
            different = sorted({*first} ^ {*names})
            where = f"in one only: {', '.join(different[:_SHOWN])}" if different else "their order differs"
            raise ConfigError(f"{sets[0].name} and {data.name} do not have the same attributes ({where})")
        if len(names) != cfg.MODEL.HEADS.NUM_CLASSES:
            raise ConfigError(
                f"MODEL.HEADS.NUM_CLASSES is {cfg.MODEL.HEADS.NUM_CLASSES}, but {data.name} has {len(names)} "
                f"attributes: set it to {len(names)}"
            )
    for data, images in (*((data, data.train) for data in trained), *((data, data.query) for data in tested)):
        if not images:
            raise ConfigError(f"{data.name} has no images to {'train on' if data in trained else 'test'}")
        _check_images(data.name, images, len(data.attribute_names))
    for data in tested:
        if len({image.attributes for image in data.query}) == 1:
            raise ConfigError(f"{data.name}: all test images have the same attributes, so no accuracy can be computed")
    return tested


def _check_images(name: str, images: Sequence[PersonImage], count: int) -> None:
    for image in images:
        if len(image.attributes) != count or not {0, 1}.issuperset(image.attributes):
            raise ConfigError(
                f"{name}: image {image.path} has the attributes {image.attributes}, expected {count} of 0 and 1"
            )


def evaluate_attributes(
    cfg: CfgNode,
    model: nn.Module,
    datasets: Sequence[Any],
    build_loader: Callable[[Any, Sequence[PersonImage]], BatchLoader],
    output_dir: str | Path,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Results:
    """Evaluate a model that gives probabilities of attributes, on several data sets; log a table of the figures.

    Args:
        cfg: `TEST.THRES` is the threshold; with `TEST.FLIP.ENABLED` probabilities are means with mirrored images.
        model: `model(batch)` returns probabilities [B, A] in eval mode.
        datasets: their queries are tested; they have `name`, `query` and `attribute_names`.
        build_loader: (cfg, images) -> batches in order (`fastreid.data.build_feature_loader`).
        output_dir: receives results.json.
        autocast: returns the context in which the model runs.

    Returns:
        {data set: figures in percent, as `attribute_figures`} in every process. If the loader skipped images
        (DATALOADER.BAD_IMAGES "skip"), all have `missing_images`.

    Raises:
        ConfigError: as `check_attributes`.
        ArgumentError: as `attribute_figures`.
    """
    check_attributes(cfg, [], datasets)
    images = {image.path: image for data in datasets for image in data.query}
    store = FeatureStore()
    store.extract(model, build_loader(cfg, my_share(list(images.values()))), autocast, flip=cfg.TEST.FLIP.ENABLED)
    if store.skipped:
        logger.warning("the figures are not those of all test images: %s", describe_skipped(store.skipped))
    results = Results()
    for data in datasets:
        tested = [image for image in data.query if image.path not in store.skipped]
        if not tested:
            raise ConfigError(f"{data.name}: none of its test images can be read")
        true = torch.tensor([image.attributes for image in tested])
        figures = attribute_figures(store.select(tested), true, data.attribute_names, cfg.TEST.THRES)
        missing = {"missing_images": len(data.query) - len(tested)} if store.skipped else {}
        results[data.name] = figures | missing
        if unknown := [name for name in data.attribute_names if f"mA/{name}" not in figures]:
            logger.warning("%s: all test images or none have %s: not in mA", data.name, ", ".join(unknown))
    if comm.is_main_process():
        write_json(Path(output_dir) / "results.json", results)
        print_csv_format({name: _overall(figures) for name, figures in results.items()})
    return results


def _overall(figures: dict[str, float | int]) -> dict[str, float | int]:
    """The figures without those of single attributes."""
    return {name: value for name, value in figures.items() if not name.startswith("mA/")}
