"""Evaluating a model on every protocol asked for: embed once, score each, write what came out."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastreid.config import ConfigError
from fastreid.evaluation.options import Scoring
from fastreid.evaluation.outcome import outcome_of, write_outcomes
from fastreid.evaluation.score import match_images, score
from fastreid.retrieval.extraction import FeatureStore, my_share
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.skipped import tell_skipped

logger = logging.getLogger(__name__)

BuildLoader = Callable[[Any, Sequence[PersonImage]], Iterable[Mapping[str, Any]]]
Results = OrderedDict[str, dict[str, float | int]]


def evaluate_protocols(
    cfg: Any,
    model: nn.Module,
    datasets: Sequence[Any],
    build_loader: BuildLoader,
    output_dir: str | Path,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Results:
    """Score a model on several protocols; each shared image is embedded once.

    Args:
        cfg: `TEST` says how to score (`Scoring`).
        datasets: protocols, with `name`, `query` and `gallery`.
        build_loader: (cfg, images) -> batches in order (`fastreid.data.build_feature_loader`).
        output_dir: receives results.json, results.csv, intervals.json, ranked_lists.json; with TEST.BREAKDOWN
            breakdown.json, with TEST.PLOTS pictures.
        autocast: makes the context in which features are computed; scores are float32 all the same.
    Returns: {protocol: figures in percent} in every process. If the loader left images out (DATALOADER.BAD_IMAGES
        "skip"), every protocol's figures have `missing_images`, how many of its own.
    Raises: ConfigError (a protocol without images), NoValidQueryError; both before any work, unless images are missing.
    """
    scoring = Scoring.from_config(cfg)
    with_pairs = scoring.roc or cfg.TEST.PLOTS
    for dataset in datasets:
        check_protocol(dataset, scoring, with_pairs=with_pairs)
    images = {image.path: image for data in datasets for image in (*data.query, *data.gallery)}
    store = FeatureStore()
    loader = build_loader(cfg, my_share(list(images.values())))
    store.extract(model, loader, autocast, flip=cfg.TEST.FLIP.ENABLED)
    if store.skipped:
        logger.warning("the figures are not those of the whole protocols: %s", tell_skipped(store.skipped))
        datasets = [_Incomplete.of(data, store.skipped) for data in datasets]
        for dataset in datasets:
            check_protocol(dataset, scoring, with_pairs=with_pairs)
    outcomes = OrderedDict()
    for data in datasets:
        features = store.select(data.query), store.select(data.gallery)
        result = score(*features, data.query, data.gallery, scoring, shared=True)
        if result and store.skipped:
            result.metrics["missing_images"] = data.num_missing
        if result:
            outcomes[data.name] = outcome_of(
                result, data.name, data.query, data.gallery, with_plots=cfg.TEST.PLOTS, **names_of(data)
            )
    if comm.is_main_process():
        write_outcomes(outcomes, Path(output_dir))
    return Results(comm.gather_plain({name: outcome.metrics for name, outcome in outcomes.items()})[0])


def names_of(dataset: Any) -> dict[str, Mapping[int, str]]:
    """{id: name} of a protocol's people and cameras, if it knows names that are not ids."""
    return {which: getattr(dataset, which, {}) for which in ("person_names", "camera_names")}


@dataclass(frozen=True)
class _Incomplete:
    """A protocol without the images that could not be read."""

    name: str
    query: list[PersonImage]
    gallery: list[PersonImage]
    num_missing: int
    person_names: Mapping[int, str]
    camera_names: Mapping[int, str]

    @classmethod
    def of(cls, dataset: Any, skipped: Mapping[str, str]) -> _Incomplete:
        query, gallery = ([i for i in side if i.path not in skipped] for side in (dataset.query, dataset.gallery))
        missing = len(dataset.query) + len(dataset.gallery) - len(query) - len(gallery)
        if missing:
            logger.warning("%s: %d of its images are missing", dataset.name, missing)
        return cls(dataset.name, query, gallery, missing, **names_of(dataset))


def check_protocol(dataset: Any, scoring: Scoring | None = None, *, with_pairs: bool = False) -> None:
    """Find out before the model runs what would spoil its evaluation after.

    Args:
        scoring: how it will be scored.
        with_pairs: wrong pairs are needed, too.

    Raises:
        ConfigError: no query or no gallery images; fewer images than neighbours are asked for; no wrong pair.
        NoValidQueryError: no query has a match under another camera.
    """
    for side in ("query", "gallery"):
        if not getattr(dataset, side):
            raise ConfigError(
                f"{dataset.name}: the {side} is empty; check the data set's {side} files under "
                "DATASETS.ROOT, and that the protocol's views occur in them"
            )
    matches = match_images(dataset.query, dataset.gallery)
    matches.require_valid_query(dataset.name)
    if with_pairs and not (matches.num_valid_gallery - matches.num_positives).any():
        raise ConfigError(
            f"{dataset.name}: TEST.ROC and TEST.PLOTS need pairs of two people, and all gallery images are of the "
            "queries' own"
        )
    if scoring:
        try:
            scoring.check_sizes(len(dataset.query), len(dataset.gallery))
        except ValueError as error:
            raise ConfigError(f"{dataset.name}: {error}") from error
